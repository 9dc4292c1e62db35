"""Which executor an escrow has: the sealing its operator chose.

The choice is how an escrow serves, like its ports, not what it is: it is made by an option or the environment each time
the escrow serves, and stands nowhere in its directory. What a run was sealed with stands in its contract. Rules:

1. One escrow has one executor. Without the engine or the image it needs there is none: nothing falls back by itself.
2. Sealed jobs and plain ones lie in directories of their own. What a killed escrow left is ended by the kind of
   executor that started it, before anything else happens and whatever is chosen now.
3. A command on an escrow that does not serve starts no job: it needs no engine, unless sealed jobs were left.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contracts.errors import EscrowError

if TYPE_CHECKING:
    from escrow.runtime.base import Runtime, Sealing

IMAGE: Final = "model-escrow/worker:latest"
OR_UNSEALED: Final = "Or choose --sealing none, for development only."


@dataclass(frozen=True)
class Seal:
    """How an escrow seals its jobs.

    Attributes:
        sealing: what stands between a job and the world; `none` can only be released as development.
        image: reference or digest of the worker's image; plain processes need none.

    """

    sealing: "Sealing" = "container"
    image: str = IMAGE

    def jobs(self, directory: Path) -> Path:
        """Where the jobs of the escrow in `directory` lie."""
        from escrow.runtime.process import memory_root  # noqa: PLC0415 - help and wrong usage answer at once

        root = memory_root(directory)
        return root if self.sealing == "none" else root.with_name(f"{root.name}-sealed")

    def runtime(self, directory: Path) -> "Runtime":
        """The executor of the escrow in `directory`.

        Raises:
            EscrowError: `engine-missing`, `image-missing` or `runtime-unfit` if it cannot be had, `runtime-unfit` if a
                directory of jobs is another user's, `escrow-busy` if jobs of the other kind are there and another
                process has the directory.
        """
        self._end_the_others(directory)
        try:
            return self._made(directory)
        except EscrowError as error:
            if error.code not in {"engine-missing", "image-missing"}:
                raise
            raise EscrowError(error.code, error.message, f"{error.hint} {OR_UNSEALED}", error.details) from None

    def _made(self, directory: Path) -> "Runtime":
        if self.sealing == "none":
            from escrow.runtime.process import ProcessRuntime  # noqa: PLC0415 - as above

            return ProcessRuntime(self.jobs(directory))
        from escrow.runtime.docker import ContainerRuntime  # noqa: PLC0415 - a machine without an engine has no use for it

        return ContainerRuntime(self.jobs(directory), image=self.image, sealing=self.sealing)

    def _end_the_others(self, directory: Path) -> None:
        """End the jobs that an escrow left which was sealed otherwise; its lock says that it is dead."""
        other = replace(self, sealing="container" if self.sealing == "none" else "none")
        jobs = other.jobs(directory)
        if not jobs.exists():
            return
        from escrow.runtime.folders import make_private  # noqa: PLC0415 - as above

        if not any(make_private(jobs).iterdir()):
            return
        from escrow import home  # noqa: PLC0415 - as above

        lock = home.lock(directory)
        try:
            with other._made(directory) as runtime:
                runtime.sweep()
        finally:
            lock.release()


UNSEALED: Final = Seal("none")


def resting(directory: Path) -> "Runtime":
    """The executor of an escrow that does not serve: it will be given nothing to do."""
    return UNSEALED.runtime(directory)


__all__ = ["IMAGE", "UNSEALED", "Seal", "resting"]
