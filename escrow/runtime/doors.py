"""The one way into a running job: a Unix socket in its directory that the worker dials, once.

The host binds it and the worker dials, because a socket bound inside one sandbox cannot be reached from outside it.
Rules:

1. It can be bound again: what an escrow left that was killed before it started the job is replaced.
2. It stands where only the job's own worker comes by: the directories above belong to the escrow's user alone, so the
   socket's own mode may let the worker's user dial.
3. One connection is accepted; then the socket is gone, and whoever else dialled is turned away.
"""

import os
import select
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from contracts.errors import EscrowError

FOLDER: Final = "door"
"""Directory of the socket in a job's directory."""
NAME: Final = "socket"


class Door:
    """A socket that listens in the directory `folder`; the caller closes it. `runtime-unfit` if there can be none."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._bind(folder)
        except OSError as error:
            self._listener.close()
            raise EscrowError("runtime-unfit", f"A job cannot get its door: {error.strerror}.") from error

    def _bind(self, folder: Path) -> None:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with suppress(FileNotFoundError):
                os.unlink(NAME, dir_fd=at)
            self._listener.bind(f"/proc/self/fd/{at}/{NAME}")  # an address holds 107 bytes, a path may be longer
        finally:
            os.close(at)
        self._path.chmod(0o666)  # whoever connects needs write permission
        self._listener.listen(1)

    def accept(self, seconds: float, ended: int) -> socket.socket:
        """Wait for the worker's call; the caller closes the stream.

        Args:
            seconds: how long at most.
            ended: descriptor that hangs up when the job has ended.

        Raises:
            EscrowError: `worker-silent`.
        """
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(ended, 0)  # a hang-up is always told
        if self._listener.fileno() not in {fd for fd, _ in poll.poll(1000 * max(0.0, seconds))}:
            raise EscrowError("worker-silent", f"The worker did not dial in within {seconds:g} s, or has ended.")
        return self._listener.accept()[0]

    def close(self) -> None:
        """Take the socket away."""
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
