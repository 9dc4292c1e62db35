"""Images that capsules run in: a vetted base, and above it the packages that a capsule's environment names.

Rules:

1. No byte of the image is the author's: the Dockerfile is read, not executed (`dockerfile`), the base is one of those
   here, packages come from the operator's own sources (`additions`), and the capsule's code is not in the image.
2. The image says what it was made from, and `check_image` refuses one that says something else. A label proves nothing
   by itself: whoever may load images into this engine can write any. That is the operator, whom a party trusts with
   the run anyway. The layers of the base, which it compares too, cannot be imitated.
3. The same environment, base and packages give the same image ID.
"""

import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json import load
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

import docker

from contracts.capsule import Capsule
from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.runtime.images import archive, dockerfile, sbom
from escrow.runtime.images.additions import python_addition, r_addition
from escrow.runtime.images.comparison import Difference, differences
from escrow.runtime.images.engine import FAMILY, KIND, ImageInfo, base_tag, bill, engine_errors, find

ENVIRONMENT: Final = "org.model-escrow.environment"
"""Label of a capsule's image: digest of the environment that it was made from (`Capsule.environment`)."""
BASE: Final = "org.model-escrow.base"
"""Label of a capsule's image: ID of the base that it was made on."""

_BASES: Final = ("base", "worker")  # kinds of images that a capsule may stand on


@dataclass(frozen=True)
class Built:
    """A capsule's image.

    Attributes:
        image: its ID: what a contract pins.
        size: bytes of its files, those of the base included.
        packages: what software it holds.
        differences: what differs from what the author had.
    """

    image: Digest
    size: int
    packages: tuple[sbom.Component, ...]
    differences: tuple[Difference, ...]


def tag(capsule: Capsule) -> str:
    """The name of the image that was made last for a capsule's environment."""
    return f"model-escrow/capsule:{capsule.environment.partition(':')[2][:12]}"


def build(
    client: docker.DockerClient, capsule: Capsule, *, base: str | None = None, tell: Callable[[str], None]
) -> Built:
    """Make the image of a capsule's environment and tag it.

    Args:
        client: the engine.
        capsule: what it is for.
        base: tag or ID of a vetted base or of the worker's image; the base of the capsule's family if not named.
        tell: gets a few words on each step.

    Raises:
        EscrowError: `image-refused` for an environment that cannot be read, another family, or packages that cannot
            be had; `image-missing` without the base; `engine-missing` if the engine does not answer.
    """
    recipe = dockerfile.read(capsule)
    chosen = _vetted(client, base or base_tag(recipe.family), recipe.family)
    with engine_errors("The engine broke off the build."), TemporaryDirectory(prefix="escrow-capsule-") as scratch:
        directory = Path(scratch)
        below = _layers(client, chosen, directory / "base")
        if recipe.family == "python":
            added = python_addition(client, recipe, chosen, directory, tell)
        else:
            added = r_addition(recipe, below, directory, tell)
        tell("handing it to the engine")
        settings = _settings(client, capsule, chosen, recipe.variables)
        info = find(client, archive.load(client, (*below, *added.layers), settings, tag(capsule)))
    return Built(info.id, info.size, bill(client, info), differences(recipe, added.interpreter, added.installed))


def check_image(client: docker.DockerClient, image: Digest, capsule: Capsule) -> None:
    """Make sure that an image was made from a capsule's environment, on a base that is here; see rule 2.

    Raises:
        EscrowError: `image-missing` if the engine does not have it, else `image-refused`.
    """
    info = find(client, image)
    if info.kind != "capsule" or info.labels.get(ENVIRONMENT) != capsule.environment:
        raise EscrowError("image-refused", f"Image {image} was not made from this capsule's environment.")
    base = info.labels.get(BASE)
    if not base or not _stands_on(client, image, base, capsule.declaration.family):
        raise EscrowError("image-refused", f"Image {image} does not stand on one of the bases that are here.")


def _vetted(client: docker.DockerClient, reference: str, family: str) -> ImageInfo:
    """A base of a family."""
    found = find(client, reference)
    if found.kind not in _BASES or found.family != family:
        hint = "Make one with `escrow image base`, or name the worker's image for Python."
        raise EscrowError("image-refused", f"Image {reference} is no vetted base of family {family}.", hint)
    return found


def _stands_on(client: docker.DockerClient, image: Digest, base: str, family: str) -> bool:
    try:
        lower = _digests(client, _vetted(client, base, family).id)
    except EscrowError as error:
        if error.code not in {"image-missing", "image-refused"}:
            raise
        return False
    return _digests(client, image)[: len(lower)] == lower


def _settings(
    client: docker.DockerClient, capsule: Capsule, base: ImageInfo, variables: Mapping[str, str]
) -> dict[str, object]:
    inherited = dict(each.partition("=")[::2] for each in client.images.get(base.id).attrs["Config"]["Env"] or ())
    family = capsule.declaration.family
    return {
        "Env": [f"{name}={value}" for name, value in sorted({**inherited, **variables}.items())],
        "Labels": {KIND: "capsule", FAMILY: family, ENVIRONMENT: capsule.environment, BASE: base.id},
    }


def _digests(client: docker.DockerClient, image: str) -> list[Digest]:
    with engine_errors(f"The engine could not tell about image {image}."):
        return [str(each) for each in client.images.get(image).attrs["RootFS"]["Layers"]]


def _layers(client: docker.DockerClient, image: ImageInfo, directory: Path) -> tuple[archive.Layer, ...]:
    """The layers of an image as files in a directory of their own, the lowest first."""
    directory.mkdir()
    whole = directory / "image.tar"
    with whole.open("wb") as file:
        for chunk in client.images.get(image.id).save():
            file.write(chunk)
    with tarfile.open(whole) as tar:
        (manifest,) = load(cast("tarfile.ExFileObject", tar.extractfile("manifest.json")))
        tar.extractall(directory, filter="data", members=[tar.getmember(name) for name in manifest["Layers"]])
    whole.unlink()
    paths = [directory / name for name in manifest["Layers"]]
    return tuple(map(archive.Layer, paths, _digests(client, image.id)))
