"""Note the ledger's head for others to compare, and verify the whole ledger here, believing nothing but the pin."""

from pathlib import Path
from typing import Annotated

import typer

from contracts.answers import Answer
from contracts.errors import EscrowError
from contracts.notes import cosign
from contracts.pages import counted
from parties.cli import EPILOG, application
from parties.cli.desk import Desk, step
from parties.cli.screen import progress
from parties.identity import pinned
from parties.ledger import Audit, read_note

app = application()


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Note the ledger's head for others to compare, and verify the whole ledger.

    Example: party ledger verify
    """


@app.command("head", epilog=EPILOG)
def head(
    ctx: typer.Context,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the note goes too; replaced.")] = None,
) -> Answer:
    """Show the ledger's head as a signed note (C2SP checkpoint), cosigned by this party, for others to compare.

    It is cosigned only if it continues every head that this party saw before.

    Example: party ledger head --out north.note
    """
    desk: Desk = ctx.obj
    with desk.client() as client:
        seen = client.head()
        note = cosign(seen, client.name, client.identity.signer, desk.now())
    if out is not None:
        try:
            out.write_text(note, encoding="utf-8")
        except OSError as error:
            raise EscrowError("file-unwritable", f"{out} cannot be written: {error.strerror}.") from None
    now = pinned(desk.home).checkpoint(note)
    data = {"head": note, "origin": now.origin, "size": now.size, "root": now.root.hex(), "file": str(out or "")}
    return Answer(data, note.rstrip("\n"))


@app.command("verify", epilog=EPILOG)
def verify(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="An exported ledger, verified offline; else the escrow's.")
    ] = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option("--head", metavar="FILE", help="A head that another party noted. Repeatable."),
    ] = None,
) -> Answer:
    """Verify the whole ledger, step by step: signatures, rules, the tree, and that everybody was shown one ledger.

    What was fetched is kept at home, so the next time only new entries are.
    A ledger that was rolled back, forked or rewritten is refused with exit code 1, and the evidence is kept.

    Example: party ledger verify --head harbour.note
    """
    desk: Desk = ctx.obj
    notes = {str(path): read_note(path) for path in heads or []}
    with progress("Replaying the ledger") as told:
        audit = Audit(desk.home, notes, step, told)
        if file is not None:
            verified = audit.of_file(file)
        else:
            with desk.client() as client:
                verified = audit.of_escrow(client)
    data = {
        "origin": verified.head.origin,
        "size": verified.head.size,
        "root": verified.head.root.hex(),
        "steps": [{"step": number, "passed": words} for number, words in enumerate(verified.steps, 1)],
        "heads": list(notes),
    }
    compared = (
        f"It continues {counted(len(notes), 'head', 'heads')} of other parties."
        if notes
        else "No other party's head was compared: exchange them with `party ledger head --out FILE`."
    )
    return Answer(data, f"The ledger {verified.head.origin} is intact, {verified.head.size} entries.\n{compared}")
