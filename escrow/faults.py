"""Because of whom a run failed: for the operator and for that party alone.

The ledger says a code to all. Whose worker, rows or node it was stands in one small file for each contract, of its last
run, readable by the escrow's user alone: who, and a catalogued code with one sentence of the escrow's own. Nothing from
the data is in it, so it outlives the contract.

A party is blamed for what follows from what it sent or from its rows, and for nothing else (`blames`):

1. for a code `OF_ITS_DATA`, whichever worker or relay refused it;
2. for any other code if its rows stay with it: its worker, node and connection are its own;
3. never in stage `evaluate`: the models that are measured there were taken, and the worker is the escrow's.

So a party whose worker the escrow runs is not to blame if that was lost, met a limit or did not answer in time. The
operator's log names it nevertheless: it says whose job it was.
"""

from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError

from contracts.canonical import canonical, parse
from contracts.contract import Contract
from contracts.errors import CODES, EscrowError
from contracts.terms import Digest, Name, Term
from escrow.disk import private, write_whole

FOLDER = "faults"
"""In the escrow's directory."""


OF_ITS_DATA: Final = frozenset(
    {
        "bundle-invalid",
        "column-missing",
        "commitment-mismatch",
        "counts-differ",
        "feature-forbidden",
        "holdout-in-training",
        "holdout-too-early",
        "key-refused",
        "scores-invalid",
        "table-empty",
        "table-invalid",
        "training-failed",
        "update-invalid",
        "window-empty",
    }
)
"""Codes that follow from a party's rows, keys or messages, wherever the worker runs that found out."""


class Fault(Term):
    """That a run failed at one party's job, rows or node."""

    contract: Digest
    run: int
    party: Name
    code: str
    sentence: str

    @classmethod
    def of(cls, error: EscrowError, contract: Digest, run: int, party: Name) -> Self:
        """What an error tells of a party."""
        return cls(contract=contract, run=run, party=party, code=error.code, sentence=error.message)

    def words(self) -> str:
        """For people: the party itself, and the operator."""
        return f"Run {self.run} failed because of {self.party}: {self.sentence} [{self.code}] {CODES[self.code].hint}"


def blames(contract: Contract, stage: str, fault: Fault) -> bool:
    """Whether the party is to blame for what failed in a stage, by the rules above."""
    if stage == "evaluate":
        return False
    return fault.code in OF_ITS_DATA or fault.party in contract.at_home()


def keep(folder: Path, fault: Fault) -> None:
    """Keep the fault of a contract's last run in the folder of faults."""
    private(folder)
    write_whole(_path(folder, fault.contract), canonical(fault.model_dump(mode="json")))


def last(folder: Path, contract: Digest) -> Fault | None:
    """The fault of a contract's last run, if that failed because of one party."""
    try:
        return Fault.model_validate(parse(_path(folder, contract).read_bytes()))
    except FileNotFoundError:
        return None
    except (EscrowError, ValidationError):  # damaged: it is told to nobody rather than to the wrong party
        return None


def forget(folder: Path, contract: Digest) -> None:
    """Remove it: another run begins."""
    _path(folder, contract).unlink(missing_ok=True)


def _path(folder: Path, contract: Digest) -> Path:
    return folder / f"{contract.removeprefix('sha256:')}.json"


__all__ = ["FOLDER", "OF_ITS_DATA", "Fault", "blames", "forget", "keep", "last"]
