"""What a capsule runs in on its author's machine: the container that the escrow would use, or a plain process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import docker

from contracts.capsule import Capsule
from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.runtime.base import Runtime, Sealing
from escrow.runtime.docker import ContainerRuntime
from escrow.runtime.images.capsule import tag
from escrow.runtime.images.engine import WORKER, base_tag, engine, find
from escrow.runtime.process import ProcessRuntime

NO_IMAGE: Final = f"sha256:{'0' * 64}"
"""A plain process has no image, and ignores the one it is given."""
_NOT_SEALED: Final = "It runs as a plain process, not sealed as at the escrow."


@dataclass(frozen=True)
class Chosen:
    """What a capsule is about to run in.

    Attributes:
        runtime: that runs it.
        image: that it runs in, or `NO_IMAGE`.
        why: a sentence or two for its author.
    """

    runtime: Runtime
    image: Digest
    why: str


@contextmanager
def runtime_for(capsule: Capsule, root: Path, *, sealing: Sealing | None, image: str) -> Iterator[Chosen]:
    """What a capsule runs in, ended afterwards.

    Args:
        capsule: what runs.
        root: where its job lies.
        sealing: None for a container if there is an engine with an image of it, else a plain process.
        image: a reference to the image; empty for the one that was built of its environment last.

    Raises:
        EscrowError: `engine-missing` or `image-missing` if a container was asked for.
    """
    if sealing == "none":
        with _plain(root) as runtime:
            yield Chosen(runtime, NO_IMAGE, _NOT_SEALED)
        return
    try:
        found, keeper = _images(capsule, image)
    except EscrowError as error:
        if sealing is not None or image:
            raise
        with _plain(root) as runtime:
            yield Chosen(runtime, NO_IMAGE, f"{error.message} {_NOT_SEALED}")
        return
    with ContainerRuntime(root, image=keeper, sealing=sealing or "container", capacity=1) as runtime:
        runtime.sweep()
        yield Chosen(runtime, found, f"It runs sealed, in a container of image {found}.")


@contextmanager
def _plain(root: Path) -> Iterator[Runtime]:
    with ProcessRuntime(root, packages=(), capacity=1) as runtime:
        runtime.sweep()
        yield runtime


def _images(capsule: Capsule, reference: str) -> tuple[Digest, Digest]:
    """The image that a reference names, or that was built of the environment last; and one that holds results."""
    client = engine()
    try:
        found = find(client, reference).id if reference else _built(client, capsule)
        return found, _keeper(client, found)
    finally:
        client.close()


def _built(client: docker.DockerClient, capsule: Capsule) -> Digest:
    try:
        return find(client, tag(capsule)).id
    except EscrowError as error:
        if error.code != "image-missing":
            raise
        told = "No image was built here of the capsule's environment as it is now."
        raise EscrowError("image-missing", told, "Build it with `party capsule build`.") from None


def _keeper(client: docker.DockerClient, own: Digest) -> Digest:
    """What the results are kept by until they are read: the worker's image or the base where they are, else its own."""
    for reference in (WORKER, base_tag("python")):
        try:
            return find(client, reference).id
        except EscrowError as error:
            if error.code != "image-missing":
                raise
    return own
