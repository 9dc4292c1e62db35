"""Where a bank's own nodes run their workers: in memory, in the way and with the code that the contract names.

Rules:

1. One program at a time runs nodes from a home. What a killed one left is ended and removed before anything starts.
2. A worker is the one that the contract names, or it does not run: code by its digest, an image by its ID.
3. The workers' inputs lie in memory, in a directory that only this user enters. Where they cannot, nothing runs.
4. A contract that seals its workers is not run less sealed here. One that does not may be: an image of the same code.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self, cast

from contracts.computation import Computation
from contracts.errors import EscrowError
from escrow.runtime.base import Runtime, Sealing
from escrow.runtime.folders import make_private, remove, require_memory
from escrow.runtime.process import ProcessRuntime, memory_root

IMAGE: Final = "model-escrow/worker:latest"
"""In which the code runs sealed here, if a contract names that code and no image."""
_WRITTEN: Final = str.maketrans("/:", "_=")  # in a directory's name, which goes to the engine as it is
_READ: Final = str.maketrans("_=", "/:")


class Premises:
    """The runtimes of a home's nodes, made when they are needed. Safe for threads."""

    def __init__(self, home: Path) -> None:
        base = memory_root(home)
        self._base = base.with_name(f"{base.name}-node")
        self._stack = ExitStack()
        self._change = threading.Lock()
        self._made: dict[tuple[str, str], Runtime] = {}

    @classmethod
    @contextmanager
    def opened(cls, home: Path) -> Iterator[Self]:
        """The premises of a home, with nothing left in them from before; all workers have ended afterwards.

        Raises:
            EscrowError: `node-busy` if another program runs nodes from this home, `engine-missing` if containers were
                left and the engine does not answer.
        """
        with _alone(home):
            premises = cls(home)
            premises._clear()
            with premises._stack:
                yield premises

    def runtime(self, computation: Computation, sealing: Sealing | None = None) -> Runtime:
        """What runs the worker that a contract names.

        Args:
            computation: the contract's.
            sealing: another way than the contract's, for one that does not seal.

        Raises:
            EscrowError: `usage` for a sealing that the contract does not allow, `worker-unknown` if the worker here is
                another, or what the runtime cannot be had for.
        """
        named = computation.sealing
        if sealing not in {None, named} and named != "none":
            raise EscrowError(
                "usage",
                f"The contract says how its workers are sealed, {named}; {sealing} is not what everyone approved.",
                "Leave --sealing out.",
            )
        worker = getattr(computation, "worker", "")
        image = worker if named != "none" else IMAGE
        runtime = self._of(sealing or named, image)
        found = runtime.worker() if runtime.sealing == named else _code_in(image)
        if found != worker:
            raise EscrowError(
                "worker-unknown",
                f"The worker here is {found}, and the contract names {worker}.",
                "Install the version of model-escrow that the escrow runs; nothing else is ever run on the rows.",
            )
        return runtime

    def _of(self, sealing: Sealing, image: str) -> Runtime:
        with self._change:
            key = (sealing, "" if sealing == "none" else image)
            if key not in self._made:
                self._made[key] = self._stack.enter_context(_made(self._root(sealing, image), sealing, image))
            return self._made[key]

    def _root(self, sealing: Sealing, image: str) -> Path:
        if sealing == "none":
            return self._base
        return self._base.with_name(f"{self._base.name}-{_suffix(sealing, image)}")

    def _clear(self) -> None:
        """End and remove what a killed program left, each kind by the runtime that started it."""
        for root in filter(_ours, sorted(self._base.parent.glob(f"{self._base.name}*"))):
            sealing, image = _named(root.name.removeprefix(self._base.name).removeprefix("-"))
            if not any(make_private(root).iterdir()):
                remove(root)
                continue
            try:
                with _made(root, sealing, image) as runtime:
                    runtime.sweep()
            except EscrowError as error:
                if error.code != "image-missing":
                    raise
                remove(root)  # without its image there is no container either


def _made(root: Path, sealing: Sealing, image: str) -> Runtime:
    """A runtime over a directory in memory."""
    if os.path.lexists(root) and not _ours(root):
        raise EscrowError(
            "runtime-unfit",
            f"{root}, where this home's workers would get their inputs, belongs to another user of this machine.",
            "Have that user or root remove it, or run the node where nobody else can write to /dev/shm.",
        )
    require_memory(make_private(root).resolve())
    if sealing == "none":
        return ProcessRuntime(root)
    from escrow.runtime.docker import ContainerRuntime  # noqa: PLC0415 - a bank without an engine has no use for it

    return ContainerRuntime(root, image=image, sealing=sealing)


def _suffix(sealing: Sealing, image: str) -> str:
    """How the name of a directory says which sealed runtime it is of."""
    return f"{sealing}-{image.translate(_WRITTEN)}"


def _named(suffix: str) -> tuple[Sealing, str]:
    """What `_suffix` says; nothing is the runtime that does not seal."""
    sealing, _, image = suffix.partition("-")
    return cast("Sealing", sealing or "none"), image.translate(_READ)


def _ours(path: Path) -> bool:
    """Whether this user has made it: in memory anybody may make anything, under any name that can be foreseen."""
    return path.lstat().st_uid == os.geteuid()


def _code_in(image: str) -> str | None:
    """Digest of the worker's code in an image."""
    from escrow.runtime.images import engine, find  # noqa: PLC0415 - as above

    client = engine()
    try:
        return find(client, image).code
    finally:
        client.close()


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    descriptor = os.open(home / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EscrowError("node-busy", f"Another program runs nodes from {home}.") from None
        yield
    finally:
        os.close(descriptor)


__all__ = ["IMAGE", "Premises"]
