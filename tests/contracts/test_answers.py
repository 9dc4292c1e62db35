"""What a user of any command meets: one envelope or readable text, the right exit code, and never a traceback."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from contracts.answers import Answer, Edge, Telling, printable, run, taken
from contracts.errors import CODES, EscrowError, Exit


@dataclass
class Terminal:
    """Remembers what was shown, written and told."""

    shown: list[object] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def edge(self, *, debug: bool = False) -> Edge:
        return Edge(self.shown.append, self.written.append, self.told.append, debug)

    def envelope(self) -> dict[str, Any]:
        [line] = self.written
        assert "\n" not in line
        found = json.loads(line, parse_constant=pytest.fail)
        assert list(found) == ["schema_version", "status", "exit_code", "data"]
        assert found["schema_version"] == "1"
        assert not self.shown
        return found  # type: ignore[no-any-return]


class ParserError(Exception):
    """Looks like the errors of the library that parses command lines."""

    exit_code = 2
    ctx = type("Context", (), {"command_path": "escrow contract validate"})

    def format_message(self) -> str:
        return "No such option:\n  --wrong"


def raising(error: BaseException) -> Callable[[Sequence[str]], object]:
    def command(_: Sequence[str]) -> object:
        raise error

    return command


def test_a_result_goes_to_stdout_as_the_form_that_was_asked_for() -> None:
    result = Answer({"rows": 3}, "3 rows")
    text, as_json = Terminal(), Terminal()
    assert run(lambda _: result, ["x"], text.edge()) == 0
    assert (text.shown, text.written, text.told) == (["3 rows"], [], [])
    assert run(lambda _: result, ["x", "--format", "json"], as_json.edge()) == 0
    assert as_json.envelope() == {"schema_version": "1", "status": "ok", "exit_code": 0, "data": {"rows": 3}}
    assert not as_json.told


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("option", [["--format", "json"], ["--format=json"]])
def test_the_format_may_stand_anywhere_and_the_command_never_sees_it(place: int, option: list[str]) -> None:
    words = ["contract", "validate"]
    seen: list[Sequence[str]] = []

    def command(rest: Sequence[str]) -> Answer:
        seen.append(rest)
        return Answer({})

    terminal = Terminal()
    run(command, [*words[:place], *option, *words[place:]], terminal.edge())
    assert seen == [words]
    assert terminal.envelope()["status"] == "ok"


def test_what_follows_two_dashes_is_no_option() -> None:
    terminal = Terminal()
    assert run(lambda rest: Answer({}, list(rest)), ["--", "--format", "json"], terminal.edge()) == 0
    assert terminal.shown == [["--", "--format", "json"]]


@pytest.mark.parametrize("argv", [["--format"], ["--format", "xml"], ["--format="]])
def test_another_format_is_wrong_usage(argv: list[str]) -> None:
    terminal = Terminal()
    assert run(lambda _: Answer({}), argv, terminal.edge()) == Exit.USAGE
    [told] = terminal.told
    assert "--format is text, json or jsonl" in told
    assert not terminal.shown


@pytest.mark.parametrize("code", CODES)
def test_every_refusal_has_its_exit_code_and_next_step(code: str) -> None:
    error = EscrowError(code, "It went wrong.")
    text, as_json = Terminal(), Terminal()
    assert run(raising(error), [], text.edge()) == CODES[code].exit
    assert text.told == [f"It went wrong. [{code}]\n  Next: {CODES[code].hint}"]
    assert not text.shown
    assert run(raising(error), ["--format=json"], as_json.edge()) == CODES[code].exit
    found = as_json.envelope()
    assert (found["status"], found["exit_code"]) == ("error", int(CODES[code].exit))
    assert found["data"] == {"code": code, "message": "It went wrong.", "hint": CODES[code].hint}
    assert not as_json.told


def test_several_problems_are_listed_one_by_one() -> None:
    error = EscrowError("document-invalid", "Two problems.", "Correct them.", ["a: bad", "b: worse"])
    text, as_json = Terminal(), Terminal()
    run(raising(error), [], text.edge())
    assert text.told == ["Two problems. [document-invalid]\n  - a: bad\n  - b: worse\n  Next: Correct them."]
    run(raising(error), ["--format=json"], as_json.edge())
    assert as_json.envelope()["data"]["details"] == ["a: bad", "b: worse"]


def test_wrong_arguments_are_a_usage_error_like_any_other() -> None:
    terminal = Terminal()
    assert run(raising(ParserError()), ["--format=json"], terminal.edge()) == 4
    assert terminal.envelope()["data"] == {
        "code": "usage",
        "message": "No such option: --wrong.",
        "hint": "Run `escrow contract validate --help`.",
    }


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_is_one_sentence_and_its_trace_only_for_who_asks(debug: bool) -> None:
    terminal = Terminal()
    assert run(raising(KeyError("card 4711")), ["--format=json"], terminal.edge(debug=debug)) == 5
    assert terminal.envelope()["data"]["code"] == "bug"
    assert "4711" not in terminal.written[0]
    assert any("Traceback" in text for text in terminal.told) is debug


def test_a_refusal_has_no_trace_even_for_who_asks() -> None:
    terminal = Terminal()
    run(raising(EscrowError("not-released", "Not released.")), [], terminal.edge(debug=True))
    assert len(terminal.told) == 1
    assert "Traceback" not in terminal.told[0]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_result_that_json_cannot_hold_is_a_bug_in_every_format(form: str) -> None:
    terminal = Terminal()
    assert run(lambda _: Answer({"gain": nan}, "fine"), ["--format", form], terminal.edge()) == 5
    assert not terminal.shown


@pytest.mark.parametrize("command", [raising(KeyboardInterrupt()), lambda _: 130])
def test_ctrl_c_ends_with_a_sentence(command: Callable[[Sequence[str]], object]) -> None:
    terminal = Terminal()
    assert run(command, [], terminal.edge()) == 1
    [told] = terminal.told
    assert told.startswith("Stopped before it was done. [interrupted]")


def test_a_missing_library_is_named() -> None:
    terminal = Terminal()
    assert run(raising(ModuleNotFoundError(name="torch")), [], terminal.edge()) == 4
    assert "torch" in terminal.told[0]
    assert "pip install" in terminal.told[0]


def test_help_says_all_itself() -> None:
    terminal = Terminal()
    assert run(lambda _: 0, ["--help"], terminal.edge()) == 0
    assert (terminal.shown, terminal.written, terminal.told) == ([], [], [])


def test_work_that_was_done_may_still_end_with_1() -> None:
    terminal = Terminal()
    assert run(lambda _: Answer({}, exit_code=Exit.REFUSED), ["--format=json"], terminal.edge()) == 1
    assert terminal.envelope()["status"] == "ok"


@given(some.text())
def test_nothing_printable_can_steer_a_terminal(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    if text.isprintable():
        assert shown == text


def test_an_error_text_cannot_steer_a_terminal() -> None:
    terminal = Terminal()
    run(raising(EscrowError("usage", "No \x1b[2Jfile \u202ecod.exe.")), [], terminal.edge())
    assert "No \\x1b[2Jfile \\u202ecod.exe." in terminal.told[0]


# commands that go on


def counting(broken: bool = False) -> Telling:
    for number in range(2):
        yield Answer({"number": number}, f"line {number}")
    if broken:
        raise EscrowError("escrow-slow", "It took too long.")
    return Answer({"last": 1}, "over", Exit.REFUSED)


def test_what_is_told_on_the_way_comes_as_it_happens() -> None:
    text, lines, one = Terminal(), Terminal(), Terminal()
    assert run(lambda _: counting(), [], text.edge()) == Exit.REFUSED
    assert (text.shown, text.written) == (["line 0", "line 1", "over"], [])
    assert run(lambda _: counting(), ["--format", "jsonl"], lines.edge()) == Exit.REFUSED
    *events, ending = map(json.loads, lines.written)
    assert (events, ending["data"], lines.shown) == ([{"number": 0}, {"number": 1}], {"last": 1}, [])
    assert run(lambda _: counting(), ["--format=json"], one.edge()) == Exit.REFUSED
    assert one.envelope()["data"] == {"last": 1, "told": [{"number": 0}, {"number": 1}]}


def test_what_was_told_stands_when_it_breaks_off() -> None:
    lines = Terminal()
    assert run(lambda _: counting(broken=True), ["--format=jsonl"], lines.edge()) == Exit.TIMEOUT
    *events, ending = map(json.loads, lines.written)
    assert events == [{"number": 0}, {"number": 1}]
    assert (ending["status"], ending["data"]["code"]) == ("error", "escrow-slow")


def test_each_line_is_written_before_the_next_is_waited_for() -> None:
    lines = Terminal()

    def command() -> Telling:
        yield Answer({"number": 0})
        assert lines.written == [json.dumps({"number": 0})]
        return Answer({})

    assert run(lambda _: command(), ["--format=jsonl"], lines.edge()) == 0


def test_an_option_is_taken_from_anywhere_before_two_dashes() -> None:
    words = ["a", "--home", "x", "b", "--home=y", "--", "--home", "z"]
    assert taken(words, "--home") == (["a", "b", "--", "--home", "z"], ["x", "y"])
    assert taken(["--home"], "--home") == ([], [""])
