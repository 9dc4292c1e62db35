"""The log of a serving escrow: one JSON object on each line, with `time`, `level`, `event` and plain fields.

Rules:
1. Fields are names of parties and verbs, codes, digests, counts and times. Never what was sent, a key, a password, or
   the name of a party's file.
2. Of an error nobody foresaw it tells the kinds and the places in the code, never the message: that may quote data.
3. Of what a library logs it tells which library and where. Its words may quote data too.
"""

import json
import logging
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TextIO

Level = Literal["info", "warning", "error"]
Field = str | int | float | bool | None | list[str]

_EVENT: Final = "escrow_event"
_OWN: Final = "escrow."  # loggers whose words hold no data


class Log:
    """Writes events to a stream, each in one piece. Safe for threads."""

    def __init__(self, stream: TextIO, now: Callable[[], float]) -> None:
        """Write to `stream`; `now` gives seconds since 1970."""
        self._stream, self._now = stream, now
        self._turn = threading.Lock()

    def event(self, name: str, *, level: Level = "info", **fields: Field) -> None:
        """Something happened."""
        time = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "level": level, "event": name, **fields}) + "\n"
        with self._turn:
            self._stream.write(line)
            self._stream.flush()

    def bug(self, where: str, error: BaseException) -> None:
        """An error nobody foresaw, without its words."""
        self.event("bug", level="error", where=where, errors=kinds(error), trace=places(error))

    @contextmanager
    def libraries(self) -> Iterator[None]:
        """Meanwhile, what libraries log and warn of goes into this log and nowhere else."""
        root, handler = logging.getLogger(), _Handler(self)
        handlers, shown = root.handlers, warnings.showwarning
        root.handlers = [handler]
        logging.captureWarnings(capture=True)
        try:
            yield
        finally:
            logging.captureWarnings(capture=False)
            warnings.showwarning = shown
            root.handlers = handlers


class _Handler(logging.Handler):
    """Translates the records of `logging`."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        told = getattr(record, _EVENT, None)
        if isinstance(told, dict) and record.name.startswith(_OWN):
            self._log.event(level=level, **told)
            return
        fields: dict[str, Field] = {"logger": record.name, "at": f"{record.filename}:{record.lineno}"}
        if record.name.startswith(_OWN):
            fields["words"] = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            fields |= {"errors": kinds(error), "trace": places(error)}
        self._log.event("library", level=level, **fields)


def tell(logger: logging.Logger, event: str, **fields: Field) -> None:
    """An event from where no `Log` is at hand, by a logger of the escrow's own: `Log.libraries` brings it here."""
    words = " ".join(f"{name}={value}" for name, value in fields.items())
    logger.warning("%s %s", event, words, extra={_EVENT: {"name": event, **fields}})


def kinds(error: BaseException) -> list[str]:
    """The kind of an error, and of those that led to it."""
    found: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(found) < 10:
        found.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    return found


def places(error: BaseException) -> list[str]:
    """Where an error was raised: file, line and function of each frame, the outermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{'/'.join(Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}" for frame in frames]


__all__ = ["Field", "Level", "Log", "kinds", "places", "tell"]
