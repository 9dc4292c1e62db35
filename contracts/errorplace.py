"""Where a capsule's code failed, read from what it printed: all that may be told of a failure besides its code.

What a capsule prints is hostile text that may quote rows, so nothing of it is passed on. Rules:

1. The class of the exception is one of Python's own, or `Exception` for any other.
2. The file is one of the capsule's code, which all who approved it can read; the line is one that the file has.
3. Anything else is no place at all.

A capsule chooses what it prints, so a place can carry some 30 bits about the rows (a class, a file, a line): a contract
discloses it only if everyone agreed (`error-place`), and then runs once.
"""

import builtins
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from contracts.statements import ErrorPlace

_FRAME: Final = re.compile(rb'  File "([^"\n]{1,1000})", line ([1-9][0-9]{0,5})(?:, in .*)?')
_RAISED: Final = re.compile(rb"([A-Za-z_][A-Za-z0-9_.]{0,199})(?::.*)?")
_LINES_AT_MOST: Final = 100_000  # that an `ErrorPlace` can name


class _Frame(NamedTuple):
    path: bytes
    line: int


class _Traceback(NamedTuple):
    frames: list[_Frame]
    raised: bytes  # the exception's class, as it was printed


def place(log: bytes, code: Mapping[str, bytes]) -> ErrorPlace | None:
    """The innermost line of the capsule's own code in the last Python traceback of a log, if it has one.

    Args:
        log: what the capsule printed.
        code: path → content of the capsule's code, `code/…`, wherever it ran.
    """
    last = None
    for last in _tracebacks(log):  # noqa: B007 - only the last one counts
        pass
    if last is None:
        return None
    for frame in reversed(last.frames):
        if (file := _own(frame, code)) is not None:
            return ErrorPlace(exception=_builtin(last.raised), file=file, line=frame.line)
    return None


def _tracebacks(log: bytes) -> Iterator[_Traceback]:
    """Each run of frames that ends with an exception; what Python prints between frames is indented."""
    frames: list[_Frame] = []
    for line in log.split(b"\n"):
        if match := _FRAME.fullmatch(line):
            frames.append(_Frame(match[1], int(match[2])))
        elif frames and not line.startswith(b"  "):
            if match := _RAISED.fullmatch(line):
                yield _Traceback(frames, match[1])
            frames = []


def _own(frame: _Frame, code: Mapping[str, bytes]) -> str | None:
    """The path of the capsule's own file, if it has such a file and line."""
    parts = frame.path.decode("ascii", "replace").split("/")
    below = ("/".join(parts[at:]) for at, part in enumerate(parts) if part == "code")
    file = next((path for path in below if path in code), None)
    if file is None or frame.line > min(len(code[file].splitlines()), _LINES_AT_MOST):
        return None
    return file


def _builtin(raised: bytes) -> str:
    """The name of the exception's class if it is Python's own."""
    name = raised.decode("ascii")
    found = getattr(builtins, name, None)
    own = isinstance(found, type) and issubclass(found, BaseException) and name[0].isupper()
    return name if own else "Exception"
