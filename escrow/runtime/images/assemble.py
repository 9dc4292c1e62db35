"""Runs inside the build of the worker's image, in a base with Python: lays out a root with that Python and packages.

    python3 assemble.py WHEELS ROOT TARGET

installs every wheel of the directory WHEELS (but pip, which does it) into ROOT/TARGET, lets the interpreter find them
there, copies the interpreter and the libraries of the system beside them, and compiles all of it ahead. Rules:

1. What is copied from the base is listed below; everything else, every other program first of all, stays behind.
2. The same wheels and base give the same bytes: packages are compiled in an order that does not depend on the machine,
   and a compiled file is tied to its source by nothing that changes.
3. Only the standard library is imported, of the base's Python.
"""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

COPIED: Final = (
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
    *("/etc/os-release", "/usr/lib/os-release", "/usr/lib/locale/C.utf8", "/usr/sbin/ldconfig", "/var/lib/dpkg/status"),
)
"""What the image has of the base besides the interpreter and shared libraries. Python asks ldconfig for libraries."""

UNUSED: Final = (
    # of packages: what only their makers and users who compile need
    *("TARGET/bin", "*/tests", "*/include", "*/cmake", "*.a", "*.h", "*.hpp", "*.cuh", "*.c", "*.cpp"),
    *("*.pyi", "*.pyx", "*.pxd", "*/torch/test", "*/torch/bin/*[Tt]est*", "*/torch/lib/*test*", "*/Crypto/SelfTest"),
    *("*/onnx/backend/test", "*/onnxruntime/transformers", "*/onnxruntime/tools", "*/onnxruntime/quantization"),
    # of pyarrow: reading from other machines
    *("*/pyarrow/*flight*", "*/pyarrow/*_s3*", "*/pyarrow/*gcsfs*", "*/pyarrow/*azurefs*", "*/pyarrow/*hdfs*"),
    # of the standard library: its own tests, and what has a window or installs things
    *("STDLIB/test", "STDLIB/idlelib", "STDLIB/tkinter", "STDLIB/turtledemo", "STDLIB/turtle.py", "STDLIB/ensurepip"),
    *("STDLIB/lib2to3", "STDLIB/pydoc_data", "STDLIB/venv", "STDLIB/config-*", "*/__pycache__"),
    *("STDLIB/site-packages", "STDLIB/dist-packages"),
)
"""Patterns of paths that are left out."""

_GROUPS: Final = 4
"""How many processes compile, each always the same files: what one makes depends on what it made before."""


def main(wheels: Path, root: Path, target: Path) -> None:
    """Lay out `root`; `target` is the absolute path of the packages in it."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    packages = _below(root, target)
    _install(wheels, packages)
    for path in (Path(sys.executable), Path(sys.executable).resolve(), *map(Path, COPIED), *_libraries()):
        _copy(path, root)
    shutil.copytree(stdlib, _below(root, stdlib), symlinks=True)
    for place in (packages, _below(root, stdlib)):
        _remove_unused(place, str(packages), str(_below(root, stdlib)))
    _link_merged(root)
    found_by = _below(root, Path(site.getsitepackages()[0])) / "worker.pth"
    found_by.parent.mkdir(parents=True, exist_ok=True)
    found_by.write_text(f"{target}\n", encoding="ascii")
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)  # memory mounted there gets this mode
    _compile(root, packages, _below(root, stdlib))


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _install(wheels: Path, packages: Path) -> None:
    (pip,) = wheels.glob("pip-*.whl")
    others = sorted(str(path) for path in wheels.glob("*.whl") if path != pip)
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--root-user-action=ignore"]
    command = [sys.executable, f"{pip}/pip", "install", *options, "--target", str(packages), *others]
    subprocess.run(command, check=True)


def _libraries() -> Iterator[Path]:
    """Shared libraries of the system and the loader that finds them."""
    for folder in ("/lib64", "/usr/lib64", f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}", "/usr/local/lib"):
        yield from sorted(path for path in Path(folder).glob("*.so*") if path.is_file())


def _copy(path: Path, root: Path) -> None:
    """Copy a file, link or directory to where it really is below `root`, and what a link leads to."""
    if not path.exists():
        return
    path = path.parent.resolve() / path.name
    place = _below(root, path)
    place.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        if not place.is_symlink():
            place.symlink_to(path.readlink())
        _copy(path.parent / path.readlink(), root)
    elif path.is_dir():
        shutil.copytree(path, place, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, place)
        place.chmod(path.stat().st_mode & 0o755)


def _link_merged(root: Path) -> None:
    """Bin, lib and so on, where the base has them as links into /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        link = Path("/", name)
        if link.is_symlink() and _below(root, link.resolve()).exists():
            (root / name).symlink_to(link.readlink())
    for path in (Path(sys.executable).parent, Path("/usr/bin")):
        python = _below(root, path) / "python"
        if python.parent.exists() and not python.exists():
            python.symlink_to("python3")


def _remove_unused(place: Path, target: str, stdlib: str) -> None:
    patterns = [pattern.replace("TARGET", target).replace("STDLIB", stdlib) for pattern in UNUSED]
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            path = Path(folder, name)
            if any(fnmatch(str(path), pattern) for pattern in patterns):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        folders[:] = sorted(name for name in folders if Path(folder, name).exists())


def _compile(root: Path, *places: Path) -> None:
    """Compile ahead, so that nothing is compiled when a worker starts, in a root that it cannot write to."""
    sources = sorted(str(path) for place in places for path in place.rglob("*.py"))
    options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(root), "-p", "/", "-i"]
    with tempfile.TemporaryDirectory() as lists:
        running = []
        for number in range(_GROUPS):
            names = Path(lists, str(number))
            names.write_text("\n".join(sources[number::_GROUPS]), encoding="utf-8")
            command = [sys.executable, "-m", "compileall", *options, str(names)]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        for process in running:
            process.wait()  # it fails if some file is a template, not Python; such a file is imported by nobody


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
