"""Whether this machine can seal jobs: engine, limits, runtimes and image, each looked at from outside.

Every function says what it found, returns a `Note` on what is worth knowing, or raises what is wrong and what to do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from docker import DockerClient

from contracts.errors import EscrowError
from escrow.runtime.base import Sealing
from escrow.runtime.confinement import LIMITED, unlimited
from escrow.runtime.images.engine import engine, engine_errors, find
from escrow.runtime.images.worker import installed_code

GIB: Final = 1 << 30
RUNTIMES: Final = ("runc", "runsc")  # of containers, and of containers under gVisor
_ADD: Final = "To seal with gVisor, install runsc and name it in the engine's daemon.json."


class Note(NamedTuple):
    """What was found though nothing is wrong, and what could be done."""

    found: str
    advice: str


def engine_answers() -> str:
    """The engine and its version.

    Raises:
        EscrowError: `engine-missing`, or `runtime-unfit` if it filters no system calls.
    """
    about = _info()
    if not any("seccomp" in str(each) for each in about.get("SecurityOptions") or ()):
        raise EscrowError("runtime-unfit", "The engine filters no system calls.", "Use one that is built with seccomp.")
    return f"version {about['ServerVersion']} answers, cgroup version {about.get('CgroupVersion', '1')}"


def limits_hold() -> str:
    """The limits that the kernel keeps for the engine.

    Raises:
        EscrowError: `engine-missing`, or `runtime-unfit` if one of them would be ignored.
    """
    about = _info()
    if missing := unlimited(about):
        raise EscrowError(
            "runtime-unfit",
            f"The engine cannot limit {', '.join(missing)}. {' '.join(about.get('Warnings') or ())}".rstrip(),
            "Let the kernel account for it (cgroup_enable=memory at boot, or cgroup version 2).",
        )
    return f"{', '.join(LIMITED.values())} can be limited"


def runtimes_there(sealing: Sealing) -> str | Note:
    """What containers can be started with.

    Raises:
        EscrowError: `engine-missing`, or `runtime-unfit` if the sealing is gVisor and it is not there.
    """
    known = set(_info().get("Runtimes") or ())
    missing = " and no ".join(name for name in RUNTIMES if name not in known)
    if sealing == "gvisor" and "runsc" not in known:
        raise EscrowError("runtime-unfit", f"The engine has no {missing}.", _ADD)
    return Note(f"The engine has no {missing}.", _ADD) if missing else " and ".join(RUNTIMES)


def image_there(reference: str) -> str | Note:
    """The worker's image, which a contract names by its digest.

    Raises:
        EscrowError: `engine-missing`, `image-missing`, or `image-refused` if it is no worker's.
    """
    with _client() as client:
        image = find(client, reference)
    if image.kind != "worker" or image.code is None:
        raise EscrowError("image-refused", f"{reference} is not the image of a worker.", "escrow image build")
    if image.code != installed_code():
        return Note(
            f"{image.id} holds the code {image.code}, installed here is {installed_code()}.",
            "escrow image build, unless contracts that are still open name this image.",
        )
    return f"{image.id}, {image.size / GIB:.1f} GiB, with the code that is installed here"


@contextmanager
def _client() -> Iterator[DockerClient]:
    client = engine()
    try:
        yield client
    finally:
        client.close()


def _info() -> dict[str, Any]:
    """What the engine says of itself."""
    with _client() as client, engine_errors("The engine could not tell about itself."):
        return dict(client.info())


__all__ = ["Note", "engine_answers", "image_there", "limits_hold", "runtimes_there"]
