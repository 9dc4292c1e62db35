"""Make an escrow of an archive, everything in it verified."""

from pathlib import Path
from typing import Annotated

import typer

from contracts.answers import Answer, printable
from contracts.errors import Exit


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `escrow backup` wrote.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty directory.")],
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="ESCROW_DATABASE",
            help="Empty PostgreSQL, a password in PGPASSFILE or ESCROW_DATABASE only. Default: SQLite in DIR.",
        ),
    ] = None,
) -> Answer:
    """Make an escrow of an archive, every statement and every encrypted file in it verified.

    Let nobody serve the old one any more: two escrows with one key make two ledgers, which banks refuse.
    Banks remember how long the ledger was. If it grew after the backup they refuse the restored one, rightly: what is
    missing was acknowledged to them.
    A run key that was erased before the backup stays erased; contracts that ended since then come back unfinished.

    Example: escrow restore /backup/escrow.tar /var/lib/escrow
    """
    from escrow.backup import restore as restored_from  # noqa: PLC0415 - help and wrong usage answer at once

    restored = restored_from(file, directory, database)
    data = {
        "directory": str(directory.absolute()),
        "ledger": restored.origin,
        "fingerprint": restored.fingerprint,
        "entries": restored.head.size,
        "root": restored.head.root.hex(),
        "files": restored.files,
        "missing": restored.missing,
        "keys": restored.keys,
    }
    lines = [
        f"{directory} holds the escrow of {restored.origin} with {restored.head.size} entries, all of them verified.",
        "Banks that saw more of its ledger will refuse it.",
    ]
    if restored.missing:
        lines.append(f"{restored.missing} encrypted files that the ledger names are not in the archive.")
    return Answer(data, printable("\n".join(lines)), Exit.REFUSED if restored.missing else Exit.OK)
