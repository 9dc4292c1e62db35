"""Images: where they come from, what they hold and do not hold, and that two builds give one ID.

The worker's image of this machine is looked at as it is; small images stand for it where something has to be built.
"""

import ensurepip
import fcntl
import io
import json
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import docker
import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from contracts.errors import EscrowError
from escrow.cli import main
from escrow.runtime import images
from escrow.runtime.images import archive, sbom, wheelhouse, worker
from escrow.runtime.images.engine import KIND, WORKER, base_tag, bill, idle, runtimes
from tests.engine import missing

ROOT = Path(__file__).parents[2]
STATUS = """\
Package: libc6
Status: install ok installed
Version: 2.36-9
Description: GNU C Library
 many lines

Package: gone
Status: deinstall ok config-files
Version: 1
"""


def silent(_: str) -> None:
    pass


def wheel(directory: Path, name: str = "tiny", number: str = "1.0") -> Path:
    """A wheel of one module that says its name."""
    path = directory / f"{name}-{number}-py3-none-any.whl"
    about = f"{name}-{number}.dist-info"
    contents = {
        f"{name}/__init__.py": f"NAME = {name!r}\n",
        f"{name}/tests/test_it.py": "assert False\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\nLicense: MIT\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{inside},,\n" for inside in contents) + f"{about}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as packed:
        for inside, text in {**contents, f"{about}/RECORD": record}.items():
            packed.writestr(inside, text)
    return path


def tar(*entries: tuple[str, Any]) -> io.BytesIO:
    """A tar stream; an entry is a name and the header's fields, `data` among them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for name, fields in entries:
            entry = tarfile.TarInfo(name)
            data = fields.pop("data", b"")
            entry.size = len(data)
            for field, value in fields.items():
                setattr(entry, field, value)
            packed.addfile(entry, io.BytesIO(data))
    stream.seek(0)
    return stream


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Calls `escrow image`; its exit code and what its JSON answer holds."""

    def asked(*argv: str) -> tuple[int, dict[str, Any]]:
        code = main(["image", *argv, "--format", "json"])
        return code, json.loads(capsys.readouterr().out)["data"]

    return asked


# --- bills of materials ---


def test_a_bill_names_every_package_and_reads_back(tmp_path: Path) -> None:
    found = (*sbom.of_debian(STATUS), sbom.of_wheel(wheel(tmp_path)))
    document = sbom.bill("an image", found)
    assert sbom.components(document) == tuple(sorted(found))
    assert [each.purl for each in sbom.components(document)] == ["pkg:deb/debian/libc6@2.36-9", "pkg:pypi/tiny@1.0"]
    tiny = json.loads(document)["components"][1]
    assert tiny["hashes"][0]["content"] == sha256((tmp_path / "tiny-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    assert tiny["licenses"] == [{"license": {"name": "MIT"}}]


def test_a_bill_depends_on_the_packages_alone(tmp_path: Path) -> None:
    found = [*sbom.of_debian(STATUS), sbom.of_wheel(wheel(tmp_path))]
    assert sbom.bill("an image", found) == sbom.bill("an image", [*reversed(found), found[0]])


@pytest.mark.parametrize("document", [b"", b"[]", b'{"components": [{"purl": "pkg:npm/x@1"}]}'])
def test_what_is_no_bill_is_refused(document: bytes) -> None:
    with pytest.raises(EscrowError) as refused:
        sbom.components(document)
    assert refused.value.code == "image-refused"


# --- wheels ---


def test_the_worker_gets_the_versions_that_constraints_fix() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    fixed = dict(line.split("==") for line in lines if "==" in line)
    wanted = {canonicalize_name(name): Version(number) for name, number in fixed.items()}
    pins = wheelhouse.pins()
    assert {"torch", "flwr", "scikit-learn", "pydantic"} <= set(pins)
    assert {name: Version(number.public) for name, number in pins.items()} == {name: wanted[name] for name in pins}


def test_servers_and_installers_that_packages_ask_for_stay_out() -> None:
    assert not {"pip", "setuptools", "uv", "uvicorn", "sqlalchemy", "docker", "requests"} & set(wheelhouse.pins())


def test_wheels_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index").mkdir()
    wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    pins = {canonicalize_name("tiny"): Version("1.0")}
    first = wheelhouse.fetch(pins, tmp_path / "kept")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    assert wheelhouse.fetch(pins, tmp_path / "kept") == first
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["tiny-1.0-py3-none-any.whl"]
    with pytest.raises(EscrowError) as refused:
        wheelhouse.fetch({canonicalize_name("tiny"): Version("2.0")}, tmp_path / "kept")
    assert refused.value.code == "image-refused"


# --- bytes that depend on content alone ---


def test_times_owners_and_set_uid_bits_do_not_reach_an_image(tmp_path: Path) -> None:
    def layer(number: int, **fields: object) -> archive.Layer:
        (tmp_path / str(number)).mkdir()
        source = tar(
            ("./", {"type": tarfile.DIRTYPE}),
            ("./bin", {"type": tarfile.DIRTYPE, "mode": 0o2777, **fields}),
            ("./bin/su", {"mode": 0o6777, "data": b"su", **fields}),
            ("./bin/tty", {"type": tarfile.CHRTYPE, "devmajor": 1}),
            ("./bin/pipe", {"type": tarfile.FIFOTYPE}),
            ("./tmp", {"type": tarfile.DIRTYPE, "mode": 0o1777, **fields}),
        )
        (made,) = archive.layers(source, tmp_path / str(number), lambda _: 0)
        return made

    first = layer(1, mtime=1_700_000_000, uid=7, gid=8, uname="me", gname="us")
    assert first.digest == layer(2).digest == f"sha256:{sha256(first.path.read_bytes()).hexdigest()}"
    with tarfile.open(first.path) as made:
        modes = {entry.name: entry.mode for entry in made}
    assert modes == {"bin": 0o755, "bin/su": 0o755, "tmp": 0o1777}


def test_files_go_to_the_layer_they_belong_to_or_are_left_out(tmp_path: Path) -> None:
    names = ("a/kept", "a/own", "a/gone")
    source = tar(*((name, {"data": name.encode()}) for name in names))
    place = {"a/kept": 0, "a/own": 1, "a/gone": None}
    lower, upper = archive.layers(source, tmp_path, place.__getitem__, count=2, added={"x/y/bill": b"{}"})
    with tarfile.open(lower.path) as made:
        assert made.getnames() == ["a/kept", "x", "x/y", "x/y/bill"]
    with tarfile.open(upper.path) as made:
        assert made.getnames() == ["a/own"]


# --- the Dockerfile ---


def test_the_image_is_made_without_installer_or_compiler_and_nothing_runs_in_it() -> None:
    lines = files("escrow.runtime.images").joinpath("Dockerfile").read_text(encoding="utf-8").splitlines()
    said = [line for line in lines if line and not line.startswith("#")]
    assert said[0] == "ARG BASE=python:3.11-slim-bookworm"
    stages = [number for number, line in enumerate(said) if line.startswith("FROM ")]
    assert said[stages[-1]] == "FROM scratch"
    assert all(said[number].startswith("FROM ${BASE} AS ") for number in stages[:-1])
    assert not any(line.startswith(("RUN", "ADD", "ENTRYPOINT", "CMD")) for line in said[stages[-1] :])
    assert not any(word in line for line in said for word in ("apt", "gcc", "curl", "http", "/bin/sh"))


# --- with the engine ---


def test_without_an_engine_the_command_says_what_to_do(
    ask: Callable[..., tuple[int, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")
    code, error = ask("show")
    assert (code, error["code"]) == (2, "engine-missing")
    assert "make engine" in error["hint"]


def test_an_engine_on_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.1:2376")
    with pytest.raises(EscrowError) as refused:
        images.engine()
    assert refused.value.code == "engine-missing"


@pytest.mark.engine
def test_an_image_that_is_not_here_is_not_pulled(
    engine: docker.DockerClient, ask: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    with pytest.raises(EscrowError) as refused:
        images.find(engine, "debian:no-such-tag")
    assert refused.value.code == "image-missing"
    code, error = ask("show", "debian:no-such-tag")
    assert (code, error["code"]) == (1, "image-missing")
    assert "runc" in runtimes(engine)


@pytest.fixture
def base(engine: docker.DockerClient) -> images.ImageInfo:
    """The base for Python."""
    try:
        return images.find(engine, base_tag("python"))
    except EscrowError:
        missing("the engine has no base (`escrow image base`)")
        raise


@pytest.fixture
def tidy(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Removes what builds of the test left for the next ones; meanwhile no test of another process builds, too."""

    def left() -> set[str]:
        return {str(each.id) for each in engine.images.list(filters={"dangling": True, "label": f"{KIND}=build"})}

    with (tmp_path_factory.getbasetemp().parent / "builds").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        before = left()
        yield
        while new := left() - before:  # removing one may leave another, its parent, without a child
            for each in new:
                engine.images.remove(each)


@pytest.fixture
def small(tmp_path: Path) -> worker.Context:
    """What a build sees, with one small wheel and two lines of code."""
    (pip,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    made = wheel(tmp_path)
    here = files("escrow.runtime.images")
    return {
        **{name: here.joinpath(name).read_bytes() for name in ("Dockerfile", "assemble.py")},
        f"wheels/{pip.name}": pip,
        f"wheels/{made.name}": made,
        "code/models/__init__.py": b"import tiny\nNAME = tiny.NAME\n",
        "sbom.json": sbom.bill("small", [sbom.of_wheel(made)]),
    }


@pytest.mark.engine
@pytest.mark.usefixtures("tidy")
def test_two_builds_give_one_image_id_and_the_image_runs(
    engine: docker.DockerClient, base: images.ImageInfo, small: worker.Context, tmp_path: Path
) -> None:
    arguments = {"BASE": base.id, "CODE": "sha256:c0de", "INPUTS": "sha256:0"}
    ids = set()
    try:
        for _ in range(2):
            built = worker.build(engine, small, arguments, silent, anew=True)
            info = worker.settle(engine, built, tmp_path, tag="model-escrow/test-images:latest")
            ids.add(info.id)
        assert len(ids) == 1
        assert (info.kind, info.family, info.code) == ("worker", "python", "sha256:c0de")
        said = engine.containers.run(
            info.id,
            ["python3", "-I", "-c", "import models, sys; print(models.NAME, models.__cached__)"],
            network_mode="none",
            read_only=True,
            remove=True,
        )
        assert said.decode().split() == ["tiny", "/opt/worker/models/__pycache__/__init__.cpython-311.pyc"]
        assert [each.name for each in bill(engine, info)] == ["tiny"]
    finally:
        for each in ids:
            engine.images.remove(each, force=True)  # with both of its tags


@pytest.mark.engine
@pytest.mark.usefixtures("tidy")
def test_a_build_that_fails_is_told_in_the_engines_words(
    engine: docker.DockerClient, base: images.ImageInfo, small: worker.Context
) -> None:
    broken = {**small, "assemble.py": b"raise SystemExit('no room for wheels')\n"}
    with pytest.raises(EscrowError) as refused:
        worker.build(engine, broken, {"BASE": base.id}, silent)
    assert refused.value.code == "image-refused"
    assert any("no room for wheels" in each for each in refused.value.details)


# --- the worker's image of this machine ---


@pytest.fixture(scope="module")
def made(engine: docker.DockerClient) -> images.ImageInfo:
    """The worker's image of the code that is installed here."""
    found = worker.latest(engine)
    if found is None or found.code != worker.installed_code():
        missing("the engine has no image of this worker (`escrow image build`)")
        raise AssertionError
    return found


@pytest.fixture(scope="module")
def entries(engine: docker.DockerClient, made: images.ImageInfo) -> dict[str, tarfile.TarInfo]:
    """Every file of it, by path."""
    return {entry.name: entry for entry, _ in walk(engine, made.id)}


def walk(engine: docker.DockerClient, image_id: str) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """The files of an image and a function that reads each; without what the engine lays over them."""
    with idle(engine, image_id) as container:
        stream: Any = archive.Stream(container.export())  # type: ignore[arg-type]
        with tarfile.open(fileobj=stream, mode="r|") as packed:
            for entry in packed:
                if not worker.of_the_engine(entry.name):
                    yield entry, lambda entry=entry: packed.extractfile(entry).read()  # type: ignore[misc,union-attr]
        while stream.read(1 << 20):
            pass


@pytest.mark.engine
def test_the_workers_image_has_no_program_but_python(entries: dict[str, tarfile.TarInfo]) -> None:
    found = {PurePosixPath(name) for name, entry in entries.items() if entry.isreg()}
    places = {"bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"}
    programs = {path.name for path in found if str(path.parent) in places}
    assert programs == {"python3.11", "ldconfig"}
    banned = {"sh", "bash", "dash", "busybox", "gcc", "cc", "ld", "as", "pip", "pip3", "apt", "dpkg", "perl", "uv"}
    assert not banned & {path.name for path in found}
    assert not any(name.startswith(("opt/worker/pip/", "opt/worker/setuptools/")) for name in entries)


@pytest.mark.engine
def test_nothing_in_the_workers_image_changes_user_or_can_be_written_by_others(
    entries: dict[str, tarfile.TarInfo],
) -> None:
    plain = {name: entry for name, entry in entries.items() if not entry.issym()}
    assert [name for name, entry in plain.items() if entry.mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert [name for name, entry in plain.items() if entry.mode & stat.S_IWOTH] == ["tmp"]
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}
    assert {entry.mtime for entry in entries.values() if entry.isreg()} == {archive.EPOCH}


@pytest.mark.engine
def test_the_label_names_the_code_that_is_in_the_image(engine: docker.DockerClient, made: images.ImageInfo) -> None:
    lines = []
    for entry, read in walk(engine, made.id):
        name = entry.name.removeprefix("opt/worker/")
        if name.startswith(("models/", "contracts/")) and entry.isreg():
            content = read()
            if name.endswith(".py"):
                lines.append((name, f"{sha256(content).hexdigest()}  {name}\n"))
            else:
                assert name.endswith(".pyc")
                assert content[4:8] == b"\x01\0\0\0", "tied to its source by hash, and not checked"
    assert made.code == f"sha256:{sha256(''.join(line for _, line in sorted(lines)).encode()).hexdigest()}"


@pytest.mark.engine
def test_the_bill_names_every_package_that_is_in_the_image(
    engine: docker.DockerClient, made: images.ImageInfo, entries: dict[str, tarfile.TarInfo]
) -> None:
    places = (PurePosixPath(name) for name in entries if name.endswith(".dist-info/METADATA"))
    there = {canonicalize_name(place.parent.name.split("-")[0]) for place in places}
    named = {canonicalize_name(each.name) for each in bill(engine, made) if each.kind == "pypi"}
    assert there == set(wheelhouse.pins())
    assert named == there | {"model-escrow"}
    assert {"libc6", "libssl3"} <= {each.name for each in bill(engine, made) if each.kind == "deb"}


@pytest.mark.engine
def test_every_module_of_the_worker_can_be_imported_in_its_image(
    engine: docker.DockerClient, made: images.ImageInfo
) -> None:
    program = (
        "import importlib, pkgutil, models\n"
        "names = [each.name for each in pkgutil.walk_packages(models.__path__, 'models.')]\n"
        "print(len([importlib.import_module(name) for name in names]))"
    )
    said = engine.containers.run(
        made.id,
        ["python3", "-c", program],
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": ""},  # noqa: S108 - in the container
        remove=True,
    )
    assert int(said) >= 20


@pytest.mark.engine
def test_no_library_reports_to_its_makers(engine: docker.DockerClient, made: images.ImageInfo) -> None:
    program = "import onnxruntime, os; print(len(os.listdir('/proc/self/task')))"  # reporting takes a thread
    one = ("OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1")
    said = engine.containers.run(
        made.id, ["python3", "-c", program], environment=list(one), network_mode="none", stderr=True, remove=True
    )
    assert said == b"1\n"


@pytest.mark.engine
def test_show_names_the_digest_that_a_contract_pins(
    engine: docker.DockerClient, made: images.ImageInfo, ask: Callable[..., tuple[int, dict[str, Any]]]
) -> None:
    code, data = ask("show")
    assert (code, data["image"], data["kind"], data["current"]) == (0, made.id, "worker", True)
    assert WORKER in data["tags"]
    assert {"name": "torch", "version": "2.13.0+cpu"}.items() <= next(
        each for each in data["packages"] if each["name"] == "torch"
    ).items()
    assert made.size < 1.6e9
