"""What a command answers: one frame for every program, so that `escrow`, `party` and the benchmarks behave alike.

Rules:

1. `--format json`, anywhere on the command line, gives exactly one envelope on stdout, whatever happens:
   `{"schema_version", "status", "exit_code", "data"}`. An error's `data` is `{"code", "message", "hint"}`, with
   `details` where there are several problems.
2. Otherwise people get the result on stdout and an error's diagnostics on stderr.
3. `--format jsonl` is for commands that tell things while they go on: one line of JSON for each, and the envelope as
   the last line. With `json` the envelope's data has them as a list, `told`.
4. Every ending has an exit code of `contracts.errors.Exit`; a wrong option or argument is a usage error like any other.
5. No traceback unless its reader asked for it: an error that nobody foresaw is one sentence with the code `bug`.

A command is a function that returns an `Answer` and raises `EscrowError`; it never prints its result itself. A command
that tells things while it goes on is a generator of answers and returns how it ended (`Telling`). Nothing here
prints either: whoever calls `run` says how (`Edge`). The library that parses command lines is known only by how
its errors look, since the law does not import it.
"""

import json
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from contracts.errors import EscrowError, Exit

SCHEMA_VERSION: Final = "1"
EPILOG: Final = (
    "Results go to stdout, progress and errors to stderr. `--format json`, anywhere, prints one JSON envelope instead;"
    " `jsonl` is for commands that go on."
    "\n\nExit codes: 0 ok · 1 refused or failed · 2 connection or authentication · 3 timeout · 4 usage · 5 bug"
)
"""What every help text ends with."""

_INTERRUPTED: Final = 130  # what shells, and the parser, call a program that was stopped with Ctrl-C
_FORMATS: Final = ("text", "json", "jsonl")


@dataclass(frozen=True)
class Answer:
    """How a command ended.

    Attributes:
        data: the result for programs: JSON values without NaN.
        people: the result for people: text, or whatever else `Edge.show` can print.
        exit_code: what the process ends with; a command that did its work but found a target missed may say REFUSED.
        status: `error` if there is no result.
    """

    data: Mapping[str, Any]
    people: object = ""
    exit_code: Exit = Exit.OK
    status: Literal["ok", "error"] = "ok"

    @classmethod
    def of_error(cls, error: EscrowError) -> "Answer":
        """The answer of a command that was refused or failed."""
        data: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
        if error.details:
            data["details"] = list(error.details)
        return cls(data, error.diagnostics(), error.exit, "error")

    def to_json(self) -> str:
        """The envelope, on one line of ASCII."""
        envelope = {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "exit_code": int(self.exit_code),
            "data": self.data,
        }
        return json.dumps(envelope, allow_nan=False)


Telling = Generator[Answer, None, Answer]
"""A command that tells things while it goes on, and then how it ended."""


@dataclass(frozen=True)
class Edge:
    """Where answers go.

    Attributes:
        show: prints a result for people on stdout.
        write: writes one line on stdout, as it is.
        tell: writes lines on stderr, as they are.
        debug: whether `tell` also gets the traceback of a bug.
    """

    show: Callable[[object], object]
    write: Callable[[str], object]
    tell: Callable[[str], object]
    debug: bool = False


def run(command: Callable[[Sequence[str]], object], argv: Sequence[str], edge: Edge) -> int:
    """Run a command line to its end and deliver its answer; the exit code.

    Args:
        command: parses arguments and runs what they name; returns its `Answer`, or a `Telling`, or anything else if it
            has said all that was asked for, as `--help` does.
        argv: the arguments, without the program's name.
        edge: where the answer goes.
    """
    rest, formats = taken(argv, "--format")
    form = formats[-1] if formats else "text"

    def call() -> object:
        given = command(_checked(rest, form))
        return _told(given, form, edge) if isinstance(given, Generator) else given

    ending = answer(call, edge.tell if edge.debug else None)
    if ending is None:
        return Exit.OK
    if form in {"json", "jsonl"}:
        edge.write(ending.to_json())
    elif ending.status == "error":
        edge.tell(printable(str(ending.people)))
    else:
        edge.show(ending.people)
    return int(ending.exit_code)


def _told(answers: Telling, form: str, edge: Edge) -> Answer:
    """Deliver each answer as it comes; how it ended."""
    told: list[Mapping[str, Any]] = []
    while True:
        try:
            each = next(answers)
        except StopIteration as stop:
            ending: Answer = stop.value
            return replace(ending, data={**ending.data, "told": told}) if form == "json" else ending
        if form == "text":
            edge.show(each.people)
        elif form == "jsonl":
            edge.write(json.dumps(each.data, allow_nan=False))
        else:
            told.append(each.data)


def answer(call: Callable[[], object], trace: Callable[[str], object] | None = None) -> Answer | None:
    """What `call` returned or raised, as an answer that can be delivered; None if it returned no answer.

    Args:
        call: what to do.
        trace: gets the traceback of an error nobody foresaw.
    """
    try:
        return _deliverable(call())
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, a user gets a sentence
        known = _as_escrow_error(error)
        if trace and known.code == "bug":
            trace(traceback.format_exc())
        return Answer.of_error(known)


def _deliverable(given: object) -> Answer | None:
    if given == _INTERRUPTED:
        raise KeyboardInterrupt
    if not isinstance(given, Answer):
        return None
    given.to_json()  # a result that JSON cannot hold is a bug for people too
    return given


def printable(text: str) -> str:
    """`text` with every character spelled out that could move a cursor, hide or reorder what people read.

    Contracts, names of files and error texts come from others; a terminal obeys what it is sent.
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)


def taken(argv: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """The arguments without an option that may stand anywhere before `--`, and its values, the last named last."""
    end = argv.index("--") if "--" in argv else len(argv)
    rest: list[str] = []
    values: list[str] = []
    words = iter(argv[:end])
    for word in words:
        name, equals, value = word.partition("=")
        if name == option:
            values.append(value if equals else next(words, ""))
        else:
            rest.append(word)
    return [*rest, *argv[end:]], values


def _checked(rest: list[str], form: str) -> list[str]:
    if form not in _FORMATS:
        raise EscrowError("usage", f"--format is text, json or jsonl, not {form!r}.")
    return rest


def _as_escrow_error(error: BaseException) -> EscrowError:
    if isinstance(error, EscrowError):
        return error
    if isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, EOFError):
        return EscrowError("interrupted", "Stopped before it was done.")
    if callable(words := getattr(error, "format_message", None)):
        path = getattr(getattr(error, "ctx", None), "command_path", None)
        return EscrowError("usage", _sentence(words()), f"Run `{path} --help`." if path else None)
    if isinstance(error, ModuleNotFoundError):
        return EscrowError("extra-missing", f"This needs {error.name}, which is not installed.")
    return EscrowError("bug", f"The program failed in a way nobody foresaw ({type(error).__name__}).")


def _sentence(text: str) -> str:
    """One line that ends with a full stop."""
    line = " ".join(text.split())
    return line if line.endswith((".", "?", "!")) else f"{line}."
