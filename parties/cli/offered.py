"""What everybody has deposited, for whoever draws a contract up, and the draft's way into a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contracts.answers import Answer
from contracts.errors import EscrowError
from contracts.pages import Line, Section, warned
from contracts.terms import Name
from parties.cli.desk import Desk
from parties.cli.screen import page, progress
from parties.client import Client
from parties.draft import Draft, to_yaml
from parties.identity import pinned
from parties.offers import Offer, leaves, offers


def offered(desk: Desk, client: Client) -> dict[Name, tuple[Offer, ...]]:
    """The deposits that stand on the ledger, all of which is replayed."""
    escrow = pinned(desk.home)
    head = escrow.checkpoint(client.head())
    with progress("Reading the ledger") as told:

        def read() -> Iterator[bytes]:
            for number, entry in enumerate(leaves(client.escrow, head.size), 1):
                told(number, head.size)
                yield entry

        return offers(read(), key=escrow.public_key, head=head)


def require_new(out: Path) -> None:
    """Refuse to replace a file: `file-unwritable`."""
    if out.exists():
        raise EscrowError("file-unwritable", f"{out} is there already.", "Name another file, or remove that one.")


def drawn_up(made: Draft, out: Path) -> Answer:
    """Write a draft into a new file; the answer that says what to do with it.

    Raises:
        EscrowError: `file-unwritable`.
    """
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(to_yaml(made.document))
    except OSError as error:
        raise EscrowError("file-unwritable", f"{out} cannot be written: {error.strerror}.") from None
    vetoes = [f"Against this bank's policy, {each.term}: {each.sentence}" for each in made.warnings]
    warnings = [*made.missing, *vetoes]
    first = Section("", (Line(f"The draft is in {out}: read and edit it."), *map(Line, made.chosen), *warned(warnings)))
    then = Section("Next", (Line(f"party contract explain {out}, then party contract propose {out}"),))
    data: dict[str, Any] = {
        "file": str(out),
        "contract": made.document,
        "chosen": list(made.chosen),
        "warnings": warnings,
    }
    return Answer(data, page([first, then]))
