"""The worker's image: made by the engine from one Dockerfile without a network, then freed of its time stamps.

1. What goes in is fixed before the engine is asked: wheels of exactly the versions installed here, the code of
   `models` and `contracts` as installed here, the bill of materials. Their digest and the base's ID are the image's
   label `inputs`; while that is unchanged there is nothing to build.
2. Nothing is pulled: the base is named to the engine by its ID.
3. The same inputs on the same base give the same image ID. What differs between two machines is what goes in: a base
   made after Debian published an update, or wheels that pip chose for another machine.
4. What a build leaves in the engine, so that the next one is quicker, is labelled and goes with the first build a day
   later.
"""

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Final, cast

import docker
from packaging.utils import canonicalize_name
from packaging.version import Version

from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.runtime.images import archive, sbom, wheelhouse
from escrow.runtime.images.engine import KIND, WORKER, ImageInfo, bill, engine_errors, find, idle
from escrow.runtime.process import code_digest, package_folders

INPUTS: Final = "org.model-escrow.inputs"
"""Label: digest of what the image was made from."""
PACKAGES: Final = ("models", "contracts")
"""The packages of the worker's own code."""

_OWN: Final = ("opt/worker/models", "opt/worker/contracts", "usr/share/model-escrow")
_OF_THE_ENGINE: Final = (".dockerenv", "dev", "proc", "sys", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab")
_STEP: Final = re.compile(r"Step (\d+/\d+) : (.*)")
_BUILD_SECONDS: Final = 1800  # how long one step may be silent
_WORDS_KEPT: Final = 8

Context = Mapping[str, bytes | Path]
"""What a build sees, by path."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """The worker's image, whether it had to be made, and where a copy of its bill of materials lies."""

    image: ImageInfo
    made: bool
    bill: Path


def installed_code() -> Digest:
    """Digest of the worker's code that is installed here."""
    return code_digest(package_folders(*PACKAGES))


def make_worker(client: docker.DockerClient, base: ImageInfo, cache: Path, tell: Tell, *, anew: bool = False) -> Built:
    """Make the worker's image of the code that is installed here.

    Args:
        client: the engine.
        base: what it starts from.
        cache: directory where wheels are kept, and bills of materials; has room for the image.
        tell: gets a few words on each step.
        anew: build even if there is an image of the same inputs, and from nothing.

    Raises:
        EscrowError: `extra-missing` or `image-refused` as `wheelhouse.fetch`; `image-refused` if the build fails.
    """
    tell("collecting wheels")
    pip = canonicalize_name("pip")
    found = wheelhouse.fetch({**wheelhouse.pins(), pip: Version(version("pip"))}, cache / "wheels")
    tell("comparing with what was made last")
    own = sbom.Component("pypi", wheelhouse.DISTRIBUTION, version(wheelhouse.DISTRIBUTION))
    packages = [sbom.of_wheel(path) for name, path in found.items() if name != pip]
    listed = sbom.bill("model-escrow/worker", (*bill(client, base), own, *packages))
    context = _context(listed, found.values())
    inputs = _inputs(base, context)
    image = None if anew else latest(client)
    made = image is None or image.labels.get(INPUTS) != inputs
    if image is None or made:
        arguments = {"BASE": base.id, "CODE": installed_code(), "INPUTS": inputs}
        built = build(client, context, arguments, tell, anew=anew)
        tell("freeing it of time stamps")
        image = settle(client, built, cache)
    copy = cache / f"sbom-{image.id.partition(':')[2][:12]}.json"
    copy.write_bytes(listed)
    return Built(image, made, copy)


def latest(client: docker.DockerClient) -> ImageInfo | None:
    """The worker's image that was made last; None if there is none."""
    try:
        return find(client, WORKER)
    except EscrowError as error:
        if error.code != "image-missing":
            raise
        return None


def _context(listed: bytes, wheels: Iterable[Path]) -> Context:
    here = files("escrow.runtime.images")
    return {
        **{name: here.joinpath(name).read_bytes() for name in ("Dockerfile", "assemble.py")},
        **{f"wheels/{path.name}": path for path in wheels},
        **{
            f"code/{path.relative_to(folder.parent).as_posix()}": path.read_bytes()
            for folder in package_folders(*PACKAGES)
            for path in folder.rglob("*.py")
        },
        "sbom.json": listed,
    }


def _inputs(base: ImageInfo, context: Context) -> Digest:
    whole = hashlib.sha256(base.id.encode())
    for chunk in archive.context(context):
        whole.update(chunk)
    return f"sha256:{whole.hexdigest()}"


def build(
    client: docker.DockerClient, context: Context, arguments: Mapping[str, str], tell: Tell, *, anew: bool = False
) -> Digest:
    """Let the engine build the Dockerfile of a context, without a network; the ID of what it made.

    Raises:
        EscrowError: `image-refused` with the engine's words if a step fails.
    """
    with engine_errors("The engine broke off the build."):
        lines = client.api.build(
            fileobj=cast("IO[bytes]", archive.context(context)),  # it streams, whatever its type says
            custom_context=True,
            buildargs=dict(arguments),
            network_mode="none",
            nocache=anew,
            rm=True,
            forcerm=True,
            decode=True,
            timeout=_BUILD_SECONDS,
        )
        return _followed(lines, tell)


def _followed(lines: Iterable[Mapping[str, Any]], tell: Tell) -> Digest:
    """Pass on what the engine says of each step; the ID of what it made."""
    made, error, said = "", "", deque[str](maxlen=_WORDS_KEPT)
    for line in lines:  # to the end, also after an error: that frees the connection
        words = str(line.get("stream", "")).strip()
        if words:
            said.append(words)
        if step := _STEP.match(words):
            tell(f"building, step {step[1]}: {step[2]}")
        made = line.get("aux", {}).get("ID", made)
        error = line.get("error", error)
    if error:
        raise EscrowError("image-refused", f"The image could not be built: {error}", details=said)
    return made


def settle(client: docker.DockerClient, built: Digest, scratch: Path, *, tag: str = WORKER) -> ImageInfo:
    """Replace an image by one of the same files whose ID depends on them alone; `scratch` has room for them.

    Its own code is a layer of its own, so that workers of the same packages share the other one.
    """
    with engine_errors("The engine did not take the image."), TemporaryDirectory(dir=scratch) as directory:
        with idle(client, built) as container:
            chunks = cast("Iterator[bytes]", container.export())  # whatever its type says
            made = archive.layers(archive.Stream(chunks), Path(directory), _place, count=2)
        config = client.images.get(built).attrs["Config"]
        settings = {key: config[key] for key in ("Env", "Labels", "User")}
        image = archive.load(client, made, settings, tag)
        client.images.remove(built, noprune=True)  # what it was built from stays for the next one
        client.images.prune({"dangling": True, "label": f"{KIND}=build", "until": "24h"})
        return find(client, image)


def of_the_engine(path: str) -> bool:
    """Whether a file is none of the image's but one that the engine lays into every container; from the root."""
    return _below(path, _OF_THE_ENGINE)


def _place(name: str) -> int | None:
    if of_the_engine(name):
        return None
    return 1 if _below(name, _OWN) else 0


def _below(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}/") for place in places)
