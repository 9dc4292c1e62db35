"""Make a new escrow: its key, its certificate authority and its empty ledger."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Group

from contracts.answers import Answer
from contracts.errors import EscrowError
from escrow.cli.home import facts


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New directory of the escrow.")],
    origin: Annotated[str, typer.Option(help="Name of the ledger, like escrow.example/ledger; it never changes.")],
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="ESCROW_DATABASE",
            help="PostgreSQL of the ledger, a password in PGPASSFILE or ESCROW_DATABASE only. Default: SQLite in DIR.",
        ),
    ] = None,
    blobs: Annotated[
        str | None, typer.Option(metavar="URL", help="S3-compatible storage, s3://BUCKET/PREFIX. Default: in DIR.")
    ] = None,
) -> Answer:
    """Make a new escrow: its key, its certificate authority and its empty ledger.

    Give the fingerprint that is shown to every bank over a channel you both trust: a bank believes no other escrow.
    Access to object storage comes from the environment (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, …), here and
    whenever the escrow serves.

    Example: escrow init /var/lib/escrow --origin escrow.example/ledger
    """
    from escrow.core import Core  # noqa: PLC0415 - help and wrong usage answer at once
    from escrow.sealing import resting  # noqa: PLC0415

    _checked(origin, database, blobs)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EscrowError("file-unwritable", f"{directory} cannot be made: {error.strerror}.") from None
    with resting(directory) as runtime:
        core = Core.create(directory, origin, runtime, database=database, blobs=blobs)
        fingerprint = core.signer.key_id
        core.close()
    data = {"directory": str(directory.absolute()), "ledger": origin, "fingerprint": fingerprint}
    shown = facts([("directory", directory.absolute()), ("ledger", origin), ("fingerprint", fingerprint)])
    return Answer(data, Group(shown, f"Next: escrow serve --home {directory}, and give banks the fingerprint."))


def _checked(origin: str, database: str | None, blobs: str | None) -> None:
    """Refuse what the new escrow could not live with, before anything is made."""
    from contracts.statements import Origin  # noqa: PLC0415 - help and wrong usage answer at once
    from escrow import rows  # noqa: PLC0415
    from escrow.blobs import ObjectBlobs  # noqa: PLC0415
    from escrow.engine import Database  # noqa: PLC0415
    from escrow.migrations import revision  # noqa: PLC0415

    try:
        TypeAdapter(Origin).validate_python(origin)
    except ValidationError:
        raise EscrowError(
            "usage", f"{origin!r} cannot be a ledger's name.", "Write it like escrow.example/ledger."
        ) from None
    if blobs is not None:
        ObjectBlobs(blobs)
    if database is None:
        return
    opened = Database(database)
    try:
        with opened.reading() as connection:
            if revision(connection) is not None and connection.execute(rows.LAST).first():
                raise EscrowError("database-in-use", "The database holds a ledger.")
    finally:
        opened.close()
