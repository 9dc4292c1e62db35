"""How the operator's commands reach an escrow: over a socket in its directory if it serves, else by opening it.

Rules:
1. The operator is local: a Unix socket of mode 0600, and only for processes of the escrow's own user or root, whom the
   kernel names (`SO_PEERCRED`, unix(7)).
2. A connection carries one request, a line of JSON, and one answer, another: `{"verb", "arguments"}` and `{"result"}`
   or `{"error": {"code", "message", "hint", "details"}}`. Both are bounded, and who is silent too long is cut off.
3. There is one code path: whether it serves or not, the same verbs of `escrow.operator` do the work.
"""

import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from contracts.errors import CODES, EscrowError

SOCKET: Final = "operator.sock"
REQUEST_BYTES: Final = 64 << 10
ANSWER_BYTES: Final = 64 << 20
SILENT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 3600.0  # a backup copies every file
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid

Verbs = Callable[..., dict[str, Any]]
"""Does one of the operator's verbs: called with its name, and its arguments by name."""


@contextmanager
def operating(directory: Path) -> Iterator[Verbs]:
    """The operator's verbs on the escrow of a directory, whether it serves or not; no verb starts a job.

    Raises:
        EscrowError: `escrow-missing`, `escrow-busy` if another command has the directory open, or `engine-missing` if a
            killed escrow left sealed jobs and nothing here can end them.
    """
    if serves(directory):
        yield lambda verb, **arguments: _asked(directory, verb, arguments)
        return
    from escrow.core import Core  # noqa: PLC0415 - takes a second, which asking who serves need not wait for
    from escrow.housekeeping import Housekeeping  # noqa: PLC0415
    from escrow.operator import Operator  # noqa: PLC0415
    from escrow.sealing import resting  # noqa: PLC0415

    with resting(directory) as runtime:
        core = Core.open(directory, runtime)
        try:
            yield Operator(core, Housekeeping(core))
        finally:
            core.close()


def serves(directory: Path) -> bool:
    """Whether an escrow serves in this directory and lets this user operate it.

    Raises:
        EscrowError: `escrow-missing`, or `not-permitted` for another user's escrow.
    """
    connection = _connected(directory)
    if connection is not None:
        connection.close()
    return connection is not None


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """The directory, open: a socket's own address has room for 107 bytes only, so it is reached from here."""
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        raise EscrowError("escrow-missing", f"{directory} holds no escrow.") from None
    try:
        yield folder
    finally:
        os.close(folder)


def _address(folder: int) -> str:
    return f"/proc/self/fd/{folder}/{SOCKET}"


def _connected(directory: Path) -> socket.socket | None:
    """A connection to the escrow that serves here, if one does."""
    with ExitStack() as undo:
        connection = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        folder = undo.enter_context(_opened(directory))
        try:
            connection.connect(_address(folder))
        except (FileNotFoundError, ConnectionRefusedError):  # the latter if it was killed
            return None
        except OSError as error:
            raise EscrowError("not-permitted", f"The operator's socket refuses: {error.strerror}.") from None
        return connection.dup()


def _asked(directory: Path, verb: str, arguments: dict[str, str]) -> dict[str, Any]:
    connection = _connected(directory)
    try:
        if connection is None:
            raise ConnectionError
        with connection, connection.makefile("rb") as file:
            connection.settimeout(ANSWER_SECONDS)
            connection.sendall(json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n")
            document = json.loads(file.readline(ANSWER_BYTES))
    except (OSError, ValueError):
        raise EscrowError(
            "escrow-unreachable",
            "The escrow ended, or refused this user, before it answered.",
            "Run the command as the escrow's own user, and look at its log.",
        ) from None
    if "error" in document:
        error = document["error"]
        code = error["code"] if error["code"] in CODES else "bug"
        raise EscrowError(code, error["message"], error["hint"], error["details"])
    result: dict[str, Any] = document["result"]
    return result


class Channel:
    """The socket of a serving escrow, from `start` to `stop`.

    Args:
        directory: of the escrow.
        verbs: what is done.
        bug: hears of errors that nobody foresaw.
    """

    def __init__(self, directory: Path, verbs: Verbs, bug: Callable[[str, BaseException], None]) -> None:
        self._path, self._verbs, self._bug = directory / SOCKET, verbs, bug
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open: set[socket.socket] = set()
        self._change = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, name="operator", daemon=True)

    def start(self) -> None:
        """Listen; a socket that a killed escrow left is replaced, for the directory is this process's."""
        self._path.unlink(missing_ok=True)
        with _opened(self._path.parent) as folder:
            self._listener.bind(_address(folder))
        self._path.chmod(0o600)
        self._listener.listen()
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Take no more requests, let those under way end for so long, then cut them off."""
        self._path.unlink(missing_ok=True)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        with self._change:
            threads, until = list(self._threads), time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._change:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(SILENT_SECONDS)
                thread = threading.Thread(target=self._serve, args=(connection,), name="operator-call", daemon=True)
                with self._change:
                    self._open.add(connection)
                    self._threads = [*(each for each in self._threads if each.is_alive()), thread]
                    thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if _trusted(connection):
                with connection.makefile("rb") as file:
                    line = file.readline(REQUEST_BYTES)
                connection.sendall(json.dumps(self._answer(line)).encode() + b"\n")
        with self._change:
            self._open.discard(connection)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            verb, arguments = _request(line)
            return {"result": self._verbs(verb, **arguments)}
        except EscrowError as error:
            return _problem(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the command gets a code and the log the rest
            self._bug("operator", error)
            return _problem(EscrowError("bug", "The escrow failed in a way nobody foresaw.", "Look at its log."))


def _request(line: bytes) -> tuple[str, dict[str, str]]:
    """The verb and the arguments of a request."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        document = None
    match document:
        case {"verb": str(verb), "arguments": dict(arguments)} if all(isinstance(v, str) for v in arguments.values()):
            return verb, arguments
    raise EscrowError("usage", "The request is not one line with a verb and its arguments.")


def _problem(error: EscrowError) -> dict[str, Any]:
    about = {"code": error.code, "message": error.message, "hint": error.hint, "details": list(error.details)}
    return {"error": about}


def _trusted(connection: socket.socket) -> bool:
    """Whether the other end is a process of this user or of root."""
    sent = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(sent)
    return uid in {0, os.geteuid()}


__all__ = ["SOCKET", "Channel", "Verbs", "operating", "serves"]
