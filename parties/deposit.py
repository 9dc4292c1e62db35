"""A deposit made ready at the bank: checked, split into train and holdout by the schema's rule, committed, encrypted.

Features are computed here, over the bank's own full history, so what is deposited holds no more than the contract's
schema asks. Each file is encrypted to a fresh age key that only the bank holds (`parties.sealing`); an approval seals
that key, with the salt of the commitment, to the contract's run key. Training rows that stay at the bank are committed
and encrypted all the same, for the bank's own disk; neither file nor key is ever sent.
"""

from io import BytesIO
from pathlib import Path

from contracts.schema import Schema
from models.features import prepare
from models.table import Prepared, read_table, write_prepared
from parties.sealing import Deposit, Part, Sealing, saved
from parties.sending import Content


def read_and_prepare(table: Path, schema: Schema) -> tuple[Prepared, Prepared]:
    """A bank's table checked and split into (train, holdout) with its window features."""
    return prepare(read_table(table, schema), schema)


def prepare_deposits(
    table: Path, schema: Schema, folder: Path, *, keep_training: bool = False
) -> tuple[Deposit, Deposit]:
    """The train and holdout deposits of a bank's table, their files and secrets kept in `folder`.

    Args:
        table: labelled transactions.
        schema: what all banks agreed on.
        folder: where files and secrets go.
        keep_training: the training rows are committed to and stay at the bank.

    Raises:
        EscrowError: as `models.table.read_table` and `models.features.prepare`; then nothing is kept.
    """
    train, holdout = read_and_prepare(table, schema)
    return (
        seal_table(train, "train", schema, folder, kept=keep_training),
        seal_table(holdout, "holdout", schema, folder),
    )


def seal_table(prepared: Prepared, part: Part, schema: Schema, folder: Path, *, kept: bool = False) -> Deposit:
    """One prepared table, committed and encrypted; `kept` if it stays at the bank."""
    return sealing_of(prepared, part, schema, folder, kept=kept).finish()


def sealing_of(prepared: Prepared, part: Part, schema: Schema, folder: Path, *, kept: bool = False) -> Sealing:
    """One prepared table, to be committed and encrypted while it is being sent, unless it is `kept`."""
    content = content_of(prepared, part, schema, kept=kept)
    return content.sealing(content.open(), folder)


def content_of(prepared: Prepared, part: Part, schema: Schema, *, kept: bool = False) -> Content:
    """One prepared table as what is to be deposited; the same bytes whenever it is opened."""

    def opened() -> BytesIO:
        buffer = BytesIO()
        write_prepared(buffer, prepared)
        buffer.seek(0)
        return buffer

    positives = prepared.positives if part == "holdout" else None
    return Content(part, opened, schema=schema, rows=len(prepared), positives=positives, kept=kept)


def seal_incumbent(packed: bytes, schema: Schema, folder: Path) -> Deposit:
    """A model bundle of the bank's own (`models.bundle.pack`), committed and encrypted."""
    return Sealing(BytesIO(packed), folder, part="incumbent", schema=schema).finish()


__all__ = [
    "Deposit",
    "Part",
    "content_of",
    "prepare_deposits",
    "read_and_prepare",
    "saved",
    "seal_incumbent",
    "seal_table",
    "sealing_of",
]
