"""The command `party`, called in this process as a bank's engineers call it, and escrows for it to talk to over TLS."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from contracts.schema import Schema
from escrow.core import clock
from escrow.runtime.process import ProcessRuntime
from parties.cli import main
from scenarios import tiny
from scenarios.consortium import Consortium

WORKER = Path(__file__).parents[1] / "escrow" / "quick_worker.py"
SCHEMA = Schema.model_validate(
    {
        "columns": {"time": "when", "label": "fraud", "group": "card", "amount": "eur", "terminal": "shop"},
        "windows-days": [1, 7],
        "split": {"train-from": "2018-04-01", "train-days": 21, "test-days": 14},
    }
)

Call = Callable[..., tuple[int, str, str]]
Ask = Callable[..., dict[str, Any]]
Refuses = Callable[..., str]


def transactions(seed: int) -> pa.Table:
    """A table of `SCHEMA`'s columns: frauds are mostly large amounts."""
    rng = np.random.default_rng(seed)
    n = 1500
    seconds = np.sort(rng.integers(0, 42 * 86_400, n))
    amounts = rng.gamma(2, 20, n)
    return pa.table(
        {
            "id": np.arange(n),
            "when": np.datetime64("2018-04-01", "s") + seconds.astype("timedelta64[s]"),
            "card": [f"card-{k}" for k in rng.integers(0, 300, n)],
            "shop": rng.integers(0, 40, n),
            "eur": amounts,
            "fraud": (rng.random(n) < np.clip(amounts / 400, 0, 0.5)).astype(np.int8),
        }
    )


@pytest.fixture(scope="session")
def schema() -> Schema:
    return SCHEMA


@pytest.fixture(scope="session")
def drawn() -> Callable[[int], pa.Table]:
    """Draws a table of the schema's columns by a seed."""
    return transactions


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the command; its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("PARTY_HOME", raising=False)
    monkeypatch.delenv("PARTY_PASSPHRASE_FILE", raising=False)

    def called(*argv: object) -> tuple[int, str, str]:
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return called


@pytest.fixture
def ask(call: Call) -> Ask:
    """Calls the command with `--format json`; its one envelope."""

    def asked(*argv: object) -> dict[str, Any]:
        code, out, _ = call("--format", "json", *argv)
        envelope = json.loads(out)
        assert out.count("\n") == 1
        assert envelope["exit_code"] == code
        assert (envelope["status"] == "error") <= (code != 0)
        return envelope  # type: ignore[no-any-return]

    return asked


@pytest.fixture
def refuses(call: Call) -> Refuses:
    """Calls the command, which is refused with an exit code and a code; the sentence a person reads."""

    def refused(*argv: object, exit_code: int, code: str) -> str:
        found, out, err = call(*argv)
        *_, last = err.strip().splitlines()
        told = [line for line in err.splitlines() if line.endswith(f" [{code}]")]
        assert (found, out) == (exit_code, ""), err
        assert last.startswith("  Next: ")
        assert len(told) == 1, err
        return told[0].removesuffix(f" [{code}]")

    return refused


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Somebody types this when the next command asks; nobody does before."""

    def typed(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))

    typed("")
    return typed


Founded = Callable[..., Consortium]


@contextmanager
def founding(folder: Path) -> Iterator[Founded]:
    """Makes escrows that listen on loopback, whose workers train in a blink, and ends them."""
    made: list[Consortium] = []

    def make(*banks: str, schema: Schema = SCHEMA) -> Consortium:
        directory = folder / f"consortium-{len(made)}"
        runtime = ProcessRuntime(
            folder / f"jobs-{len(made)}", command=(sys.executable, str(WORKER)), packages=(), capacity=2
        )
        if banks:
            made.append(tiny.founded(directory, runtime, clock, banks=banks, wire="grpc"))  # type: ignore[arg-type]
        else:
            made.append(Consortium.create(directory, schema, runtime=runtime, wire="grpc"))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.close()


@pytest.fixture
def founded(tmp_path: Path) -> Iterator[Founded]:
    """Makes an escrow for this test alone, with banks that have deposited, or without any."""
    with founding(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """An escrow for all tests of a module, with two banks that have deposited."""
    with founding(tmp_path_factory.mktemp("town")) as make:
        yield make("north", "harbour")
