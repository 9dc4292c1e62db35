"""Where a capsule failed, read from hostile text: a line of its own code and a known class, or nothing."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from capsules import FILES
from hypothesis import given
from hypothesis import strategies as some

from contracts.errorplace import place
from contracts.statements import ErrorPlace

AT = '  File "{path}", line {line}, in main\n    raise KeyError\n'


def traceback(*frames: tuple[str, int], raised: str = "KeyError: 'a row'") -> bytes:
    body = "".join(AT.format(path=path, line=line) for path, line in frames)
    return f"Traceback (most recent call last):\n{body}{raised}\n".encode()


def found(log: bytes) -> tuple[str, str, int] | None:
    told = place(log, FILES)
    return told and (told.exception, told.file, told.line)


def test_a_real_traceback_leads_to_the_line_that_raised(tmp_path: Path) -> None:
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    run = subprocess.run([sys.executable, "analysis.py"], cwd=tmp_path / "code", capture_output=True, check=False)
    assert b"a row" in run.stderr
    assert found(run.stderr) == ("KeyError", "code/analysis.py", 5)


def test_a_real_syntax_error_leads_to_its_line(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "analysis.py").write_text("import csv\nx = = 2\n")
    run = subprocess.run([sys.executable, "analysis.py"], cwd=tmp_path / "code", capture_output=True, check=False)
    assert found(run.stderr) == ("SyntaxError", "code/analysis.py", 2)


@pytest.mark.parametrize("top", ["", "/somewhere/run-1-2/job", "/home/code/code"])
def test_code_is_found_wherever_it_ran(top: str) -> None:
    assert found(traceback((f"{top}/code/analysis.py", 5))) == ("KeyError", "code/analysis.py", 5)


def test_the_innermost_line_of_its_own_code_counts() -> None:
    frames = [("/code/analysis.py", 8), ("/code/lib/helper.py", 1), ("/usr/lib/python3.11/csv.py", 110)]
    assert found(traceback(*frames)) == ("KeyError", "code/lib/helper.py", 1)


def test_the_last_of_several_tracebacks_counts() -> None:
    handled = traceback(("/code/lib/helper.py", 1), raised="ValueError: first")
    between = b"\nDuring handling of the above exception, another exception occurred:\n\n"
    assert found(handled + between + traceback(("/code/analysis.py", 5)) + b"finished with errors\n") == (
        "KeyError",
        "code/analysis.py",
        5,
    )


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("ZeroDivisionError: division by zero", "ZeroDivisionError"),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
        ("pandas.errors.ParserError: card 4711", "Exception"),
        ("__main__.Card4711: x", "Exception"),
        ("Card4711Error", "Exception"),
        ("print: x", "Exception"),
        ("builtins.KeyError: x", "Exception"),
        ("_IncompleteInputError: x", "Exception"),
        ("__debug__", "Exception"),
    ],
)
def test_only_python_s_own_classes_are_named(raised: str, told: str) -> None:
    assert found(traceback(("/code/analysis.py", 5), raised=raised)) == (told, "code/analysis.py", 5)


@pytest.mark.parametrize(
    "log",
    [
        b"",
        b"card 4711, amount 2.50\n",
        b"Error in f(x) : card 4711\nExecution halted\n",
        traceback(("/code/analysis.py", 10)),  # it has nine lines
        traceback(("/code/analysis.py", 999_999)),
        traceback(("/code/absent.py", 1)),
        traceback(("/code/../data/cards.csv", 1)),
        traceback(("/data/cards.csv", 1)),
        traceback(("/usr/lib/python3.11/csv.py", 110)),
        traceback(("/code/analysis.py\0", 5)),
        traceback(("analysis.py", 5)),
        traceback(("/code/analysis.py", 5), raised="card 4711 is a fraud"),
        traceback(("/code/analysis.py", 5), raised=""),
        traceback(("/code/analysis.py", 5)).replace(b"line 5", b"line 05"),
        traceback(("/code/analysis.py", 5)).replace(b"line 5", b"line 5000000000000000000000"),
        traceback(("/code/analysis.py", 5)).replace(b"line 5", "line ٥".encode()),
        traceback(("/code/analysis.py", 5))[:-20],
        b'  File "/code/analysis.py", line 5, in main\n',
    ],
)
def test_anything_else_is_no_place(log: bytes) -> None:
    assert place(log, FILES) is None


def test_a_line_beyond_what_a_statement_can_name_is_no_place() -> None:
    long = {**FILES, "code/long.py": b"\n" * 200_000}
    assert place(traceback(("/code/long.py", 100_000)), long) is not None
    assert place(traceback(("/code/long.py", 100_001)), long) is None


_PIECES = some.sampled_from(
    [
        b"Traceback (most recent call last):\n", b'  File "', b"/code/analysis.py", b"/code/", b'", line ', b"5", b"0",
        b"99999999", b", in x", b"\n", b"KeyError", b": ", b"  ", b"\r", b"\xff", b"\0", b'"', b"code",
    ]
)  # fmt: skip


@given(some.lists(some.one_of(_PIECES, some.binary(max_size=8)), max_size=60))
def test_whatever_was_printed_a_place_is_valid_and_of_the_capsule(pieces: list[bytes]) -> None:
    told = place(b"".join(pieces), FILES)
    if told is not None:
        assert ErrorPlace.model_validate(told.model_dump()) == told
        assert 1 <= told.line <= len(FILES[told.file].splitlines())


@pytest.mark.parametrize(
    "piece", [b"\n", b'  File "', b"A", b'  File "/code/analysis.py", line 1\n', b"/code" * 190 + b"\n", b":" * 99]
)
def test_a_full_log_is_read_in_no_time(piece: bytes) -> None:
    log = (piece * ((4 << 20) // len(piece) + 1))[: 4 << 20]
    began = time.process_time()
    place(log, FILES)
    assert time.process_time() - began < 5
