"""The container engine of this machine and the images it holds. Rules:

1. Only a local engine serves, reached by a Unix socket: jobs hand it directories of this machine.
2. An image is looked up, never pulled; what the caller keeps is its ID, the digest of its configuration, which names
   every byte of it.
"""

import os
import socket
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Final

import docker
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.transport import unixconn
from requests.exceptions import RequestException

from contracts.errors import EscrowError
from contracts.terms import Digest
from escrow.runtime.images import sbom

KIND: Final = "org.model-escrow.kind"
"""Label: `base`, `worker` or `capsule`."""
FAMILY: Final = "org.model-escrow.family"
"""Label: `python` or `r`."""
CODE: Final = "org.model-escrow.code"
"""Label of a worker's image: digest of its code, as `escrow.runtime.process.code_digest` gives it."""

WORKER: Final = "model-escrow/worker:latest"
"""Tag of the worker's image that was made last."""

FAILURES: Final = (DockerException, RequestException)
"""What the client library raises when the engine refuses or does not answer."""

_READ_AT_MOST: Final = 16 << 20


def _connect(self: unixconn.UnixHTTPConnection) -> None:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(self.timeout)
        stream.connect(self.unix_socket)
    except BaseException:
        stream.close()
        raise
    self.sock = stream


# Where nobody listens the library leaves its socket open; a job that waits for its engine would have many.
unixconn.UnixHTTPConnection.connect = _connect  # type: ignore[method-assign]


def base_tag(family: str) -> str:
    """The tag of the base that was made last for a family."""
    return f"model-escrow/base:{family}"


@dataclass(frozen=True)
class ImageInfo:
    """What an image says of itself.

    Attributes:
        id: digest of its configuration: what a contract pins and a job runs.
        tags: names it has here.
        size: bytes of its files.
        created: time that stands in it, which is a constant for images made here; ISO 8601.
        labels: all of its labels.
    """

    id: Digest
    tags: tuple[str, ...]
    size: int
    created: str
    labels: Mapping[str, str]

    @property
    def kind(self) -> str:
        """`base`, `worker` or `capsule`; empty for an image that was not made here."""
        return self.labels.get(KIND, "")

    @property
    def family(self) -> str:
        """`python` or `r`; empty for an image that was not made here."""
        return self.labels.get(FAMILY, "")

    @property
    def code(self) -> Digest | None:
        """Digest of the worker's code in it; None if it is not a worker's image."""
        return self.labels.get(CODE)


def engine(*, seconds: int = 60) -> docker.DockerClient:
    """A client of the engine that answers on this machine; the caller closes it.

    DOCKER_HOST may name another socket.

    Args:
        seconds: how long the engine may be silent before a call fails.

    Raises:
        EscrowError: `engine-missing`.
    """
    host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if host.partition("://")[0] not in {"unix", "http+unix"}:
        raise EscrowError("engine-missing", f"DOCKER_HOST is {host}, but jobs need an engine on this machine.")
    try:
        client = docker.DockerClient(base_url=host, version="auto", timeout=seconds)
    except (*FAILURES, OSError) as error:
        raise EscrowError("engine-missing", f"No container engine answers at {host}.") from error
    client.api.trust_env = False  # a proxy or a .netrc means nothing to a socket, and threads would read them each time
    return client


def find(client: docker.DockerClient, reference: str) -> ImageInfo:
    """The image that a tag or an ID names here. It is never pulled.

    Raises:
        EscrowError: `image-missing`, or `engine-missing` if the engine has stopped answering.
    """
    with engine_errors(f"The engine could not tell about image {reference}."):
        try:
            attributes = client.images.get(reference).attrs
        except ImageNotFound:
            raise EscrowError("image-missing", f"The engine has no image {reference}.") from None
    return ImageInfo(
        id=str(attributes["Id"]),
        tags=tuple(sorted(attributes.get("RepoTags") or ())),
        size=int(attributes["Size"]),
        created=str(attributes["Created"]),
        labels=MappingProxyType(dict((attributes.get("Config") or {}).get("Labels") or {})),
    )


def runtimes(client: docker.DockerClient) -> frozenset[str]:
    """Names of the runtimes that the engine can start containers with, such as `runc` and `runsc`."""
    with engine_errors("The engine could not tell its runtimes."):
        return frozenset(client.info()["Runtimes"])


@contextmanager
def engine_errors(words: str) -> Iterator[None]:
    """Turn what the client library raises into `engine-missing` with these words."""
    try:
        yield
    except FAILURES as error:
        raise EscrowError("engine-missing", words, details=[str(error)]) from error


@contextmanager
def idle(client: docker.DockerClient, image: Digest) -> Iterator[Container]:
    """A container of an image that is never started: its files can be read. Removed in the end."""
    container = client.containers.create(image, ["-"], network_mode="none", labels={KIND: "idle"})
    try:
        yield container
    finally:
        container.remove(v=True)


def bill(client: docker.DockerClient, image: ImageInfo) -> tuple[sbom.Component, ...]:
    """What software an image holds: what its bill of materials says, or else dpkg's status file.

    Raises:
        EscrowError: `image-refused` if it has neither.
    """
    with engine_errors(f"The engine could not read image {image.id}."), idle(client, image.id) as container:
        if (document := _file(container, sbom.PATH)) is not None:
            return sbom.components(document)
        if (status := _file(container, "var/lib/dpkg/status")) is not None:
            return tuple(sorted(sbom.of_debian(status.decode())))
    raise EscrowError("image-refused", "The image does not say which packages it holds.")


def _file(container: Container, path: str) -> bytes | None:
    """The content of a regular file of at most 16 MiB; None if there is none."""
    try:
        chunks, about = container.get_archive(f"/{path}")
    except NotFound:
        return None
    if about is None or about["size"] > _READ_AT_MOST or about["linkTarget"]:
        raise EscrowError("image-refused", f"The image's {path} cannot be read.")
    with tarfile.open(fileobj=BytesIO(b"".join(chunks))) as tar:
        content = tar.extractfile(tar.next() or "")
        return content.read() if content else None
