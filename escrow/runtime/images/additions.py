"""What a capsule's packages add to a vetted base, as a layer above it. Rules:

1. Packages come from the operator's own sources: wheels from the index that pip is configured with here, Debian's
   packages from Debian. If that index mirrors a public one, whoever can publish there can publish to it: an index of
   vetted packages is the operator's to choose.
2. No code of a package of Python runs while the layer is made: wheels only, fetched and unpacked by pip; unpacked in a
   container of the base without network and capabilities. pip does not stay. Which packages a wheel requires depends
   on the Python that pip runs in, so a base with another one is refused.
3. Debian's packages are installed by mmdebstrap, their own scripts included; the layer is what then differs from the
   base. Files that Debian's updates removed since the base was made stay.
4. Either every package of Python names the files that may serve, by hash, or none does.
5. The same packages on the same base give the same bytes.
"""

import json
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from subprocess import DEVNULL, PIPE, run
from typing import Final, cast

import docker
from docker.models.containers import Container
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from contracts.errors import EscrowError
from escrow.runtime.images import archive, bases, sbom, wheelhouse
from escrow.runtime.images.dockerfile import Recipe
from escrow.runtime.images.engine import KIND, ImageInfo, bill
from escrow.runtime.images.pins import check_hashes

Tell = Callable[[str], None]

_PROBE: Final = (
    "import json, os, platform; "
    "print(json.dumps([platform.python_version(), os.confstr('CS_GNU_LIBC_VERSION'), platform.machine()]))"
)
_INSTALL: Final = """
import compileall, py_compile, subprocess, sys
pip, *wanted = sys.argv[1:]
options = ["--no-index", "--find-links", "/wheels", "--no-deps", "--no-compile", "--no-cache-dir", "--root", "/made"]
command = [sys.executable, f"/wheels/{pip}/pip", "install", "--quiet", "--root-user-action=ignore", *options, *wanted]
subprocess.run(command, check=True)
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
compileall.compile_dir("/made", quiet=2, stripdir="/made", prependdir="/", invalidation_mode=mode)
"""
_SECONDS: Final = 1800
_MEMORY: Final = "4g"
_LINES: Final = 5  # of what a failed step printed


@dataclass(frozen=True)
class Addition:
    """What packages add to a base.

    Attributes:
        layers: above those of the base; none if nothing is added.
        interpreter: version of Python or R in the image.
        installed: name → version of the packages of that language in the image.
    """

    layers: tuple[archive.Layer, ...]
    interpreter: str
    installed: Mapping[str, str]


@dataclass(frozen=True)
class Target:
    """What wheels are fetched for: the Python of a base, of the same minor version as the one that runs here.

    Attributes:
        python: its version.
        libc: minor version of the GNU C library 2.
        machine: as the kernel calls it, such as `x86_64`.
    """

    python: str
    libc: int
    machine: str

    @property
    def minor(self) -> str:
        """Its major and minor version, such as `3.11`."""
        return ".".join(self.python.split(".")[:2])

    def options(self) -> list[str]:
        """How pip is told which wheels fit."""
        older = {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}
        names = [f"manylinux_2_{minor}" for minor in range(self.libc, 4, -1)]
        names += [name for name, minor in older.items() if minor <= self.libc]
        platforms = [f"{name}_{self.machine}" for name in [*names, "linux"]]
        return ["--implementation", "cp", "--python-version", self.minor, *(f"--platform={each}" for each in platforms)]

    def check(self) -> None:
        """Refuse to fetch for another Python than the one that runs here: `image-refused`."""
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        if self.minor != here:
            raise EscrowError(
                "image-refused",
                f"The base has Python {self.python}, and pip here runs in {here}: it could choose other packages.",
                f"Build the image with an escrow that is installed in Python {self.minor}.",
            )


def python_addition(
    client: docker.DockerClient, recipe: Recipe, base: ImageInfo, directory: Path, tell: Tell
) -> Addition:
    """What packages of Python add.

    Args:
        client: the engine.
        recipe: what is asked for.
        base: what it is installed above; a package that it has in the same version is not installed again.
        directory: scratch.
        tell: gets a few words on each step.

    Raises:
        EscrowError: `image-refused` if the wheels cannot be had, or not in these versions beside the base's.
    """
    target, there = _probe(client, base), bill(client, base)
    before = {str(canonicalize_name(each.name)): each.version for each in there if each.kind == "pypi"}
    if not recipe.packages:
        return Addition((), target.python, before)
    target.check()
    check_hashes(recipe.packages.values())
    tell(f"fetching wheels for Python {target.python}")
    wheels = _fetch(recipe, before, target, directory)
    new = {name: path for name, path in wheels.items() if name not in before}
    if not new:
        return Addition((), target.python, before)
    tell(f"installing {len(new)} packages without network")
    said = sbom.bill("capsule", (*there, *map(sbom.of_wheel, new.values())))
    layer = _install(client, base, list(new.values()), directory, said)
    return Addition((layer,), target.python, {**before, **distributions(layer.path)})


def _probe(client: docker.DockerClient, base: ImageInfo) -> Target:
    with _ended(client, base, ["python3", "-I", "-S", "-c", _PROBE]) as container:
        python, libc, machine = json.loads(container.logs(stderr=False))
    return Target(python, int(libc.split(".")[1]), machine)


def _fetch(recipe: Recipe, before: Mapping[str, str], target: Target, directory: Path) -> dict[str, Path]:
    """The wheels that are asked for and those that they require in turn, by name, fetched with pip."""
    wheels, wanted, fixed = directory / "wheels", directory / "wanted.txt", directory / "fixed.txt"
    _write(wanted, (pin.requirement() for pin in recipe.packages.values()))
    others = {pin.name: pin.version for pin in recipe.lock.values() if pin.name not in recipe.packages}
    _write(fixed, (f"{name}=={number}" for name, number in {**others, **before}.items()))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet"]
    options = ["--only-binary", ":all:", *target.options(), "--dest", str(wheels)]
    command = [*pip, *options, "--requirement", str(wanted), "--constraint", str(fixed)]
    done = run(command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, text=True, check=False)
    if done.returncode:
        raise EscrowError(
            "image-refused",
            f"pip could not fetch wheels of all packages for Python {target.python}.",
            "Pin versions that fit together and of which the operator's index has wheels (`pip config list`).",
            [line for line in done.stderr.splitlines() if line.startswith("ERROR")][:_LINES]
            or [f"pip ended with {done.returncode}."],
        )
    found = {str(parse_wheel_filename(path.name)[0]): path for path in sorted(wheels.glob("*.whl"))}
    if "pip" in found:
        raise EscrowError("image-refused", "pip is among the packages.", "Leave out pip and what requires it.")
    return found


def _write(path: Path, texts: Iterable[str]) -> None:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="ascii")


def _install(
    client: docker.DockerClient, base: ImageInfo, wheels: Sequence[Path], directory: Path, said: bytes
) -> archive.Layer:
    name = canonicalize_name("pip")
    pip = wheelhouse.fetch({name: Version(version("pip"))}, directory / "pip")[name]
    wanted = [f"{name}=={number}" for name, number, _, _ in (parse_wheel_filename(path.name) for path in wheels)]
    files = {f"wheels/{path.name}": path for path in (*wheels, pip)}
    with (
        _ended(client, base, ["python3", "-I", "-c", _INSTALL, pip.name, *wanted], files) as container,
        _new(directory / "layers") as folder,
    ):
        chunks, _ = container.get_archive("/made/usr")
        (layer,) = archive.layers(archive.Stream(chunks), folder, lambda _: 0, added={sbom.PATH: said})
    return layer


@contextmanager
def _ended(
    client: docker.DockerClient, base: ImageInfo, command: list[str], files: Mapping[str, Path] | None = None
) -> Iterator[Container]:
    """A container of a base in which a command has ended well: no network, no capabilities. Removed in the end."""
    container = client.containers.create(
        base.id,
        command,
        cap_drop=["ALL"],
        environment={"PYTHONHASHSEED": "0"},
        labels={KIND: "build"},
        mem_limit=_MEMORY,
        memswap_limit=_MEMORY,
        network_mode="none",
        pids_limit=256,
        security_opt=["no-new-privileges"],
        tmpfs={"/tmp": ""},  # noqa: S108 - a tmpfs of its own
        user="0:0",
    )
    try:
        if files:
            container.put_archive("/", cast("bytes", archive.context(files)))  # it streams, whatever its type says
        container.start()
        if container.wait(timeout=_SECONDS)["StatusCode"]:
            said = container.logs().decode(errors="replace").splitlines()[-_LINES:]
            raise EscrowError("image-refused", "A step of the build failed.", details=said)
        yield container
    finally:
        container.remove(force=True, v=True)


@contextmanager
def _new(directory: Path) -> Iterator[Path]:
    directory.mkdir()
    yield directory


def distributions(layer: Path) -> dict[str, str]:
    """Name → version of the packages of Python in a layer, as their own metadata says."""
    found = {}
    with tarfile.open(layer) as tar:
        for entry in tar:
            if entry.name.endswith(".dist-info/METADATA") and (content := tar.extractfile(entry)):
                fields = message_from_bytes(content.read())
                found[str(canonicalize_name(str(fields["Name"])))] = str(fields["Version"])
    return found


def r_addition(recipe: Recipe, below: Sequence[archive.Layer], directory: Path, tell: Tell) -> Addition:
    """What packages of R add.

    Args:
        recipe: what is asked for.
        below: the layers of the base.
        directory: scratch.
        tell: gets a few words on each step.

    Raises:
        EscrowError: `image-refused` if Debian does not have them, `extra-missing` without mmdebstrap.
    """
    tell("installing Debian's packages of R")
    root = directory / "root.tar"
    bases.bootstrap(root, (*bases.PACKAGES["r"], *sorted(recipe.packages)))
    components = list(sbom.of_debian(bases.status(root)))
    tell("taking what the base does not have")
    with _new(directory / "whole") as folder, root.open("rb") as source:
        (whole,) = archive.layers(source, folder, bases.place)
    names = beyond([whole], below)
    said = {sbom.PATH: sbom.bill("capsule", components)}
    with _new(directory / "layers") as folder, whole.path.open("rb") as source:
        (layer,) = archive.layers(source, folder, lambda name: 0 if name in names else None, added=said)
    installed = {each.name: each.version for each in components if each.name.startswith(("r-cran-", "r-bioc-"))}
    (interpreter,) = (each.version for each in components if each.name == "r-base-core")
    return Addition((layer,), interpreter, installed)


@dataclass(frozen=True)
class _Entry:
    """An entry of a layer, as far as it makes a difference."""

    kind: bytes
    mode: int
    link: str
    content: bytes


def beyond(layers: Iterable[archive.Layer], below: Iterable[archive.Layer]) -> frozenset[str]:
    """Paths of what layers hold and those below do not hold just so; with a hard link, the file that it is."""
    new = _entries(layers).items() - _entries(below).items()
    return frozenset({path for path, _ in new} | {each.link for _, each in new if each.kind == tarfile.LNKTYPE})


def _entries(layers: Iterable[archive.Layer]) -> dict[str, _Entry]:
    """What stands in layers, the lowest first, by path."""
    found = {}
    for layer in layers:
        with tarfile.open(layer.path) as tar:
            for entry in tar:
                content = tar.extractfile(entry) if entry.isreg() else None
                digest = sha256(content.read()).digest() if content else b""
                found[entry.name] = _Entry(entry.type, entry.mode, entry.linkname, digest)
    return found
