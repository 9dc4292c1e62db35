"""A deposit made ready at the bank: checked, split into train and holdout by the schema's rule, committed, encrypted.

Features are computed here, over the bank's own full history, so what is deposited holds no more than the contract's
schema asks. Each file is encrypted to a fresh age key that only the bank holds (`parties.sealing`); an approval seals
that key, with the salt of the commitment, to the contract's run key.
"""

from io import BytesIO
from pathlib import Path

from contracts.schema import Schema
from models.features import prepare
from models.table import Prepared, read_table, write_prepared
from parties.sealing import Deposit, Part, Sealing, saved


def read_and_prepare(table: Path, schema: Schema) -> tuple[Prepared, Prepared]:
    """A bank's table checked and split into (train, holdout) with its window features."""
    return prepare(read_table(table, schema), schema)


def prepare_deposits(table: Path, schema: Schema, folder: Path) -> tuple[Deposit, Deposit]:
    """The train and holdout deposits of a bank's table, their files and secrets kept in `folder`.

    Raises:
        EscrowError: as `models.table.read_table` and `models.features.prepare`; then nothing is kept.
    """
    train, holdout = read_and_prepare(table, schema)
    return (
        seal_table(train, "train", schema, folder),
        seal_table(holdout, "holdout", schema, folder),
    )


def seal_table(prepared: Prepared, part: Part, schema: Schema, folder: Path) -> Deposit:
    """One prepared table, committed and encrypted."""
    return sealing_of(prepared, part, schema, folder).finish()


def sealing_of(prepared: Prepared, part: Part, schema: Schema, folder: Path) -> Sealing:
    """One prepared table, to be committed and encrypted while it is being sent."""
    buffer = BytesIO()
    write_prepared(buffer, prepared)
    buffer.seek(0)
    positives = prepared.positives if part == "holdout" else None
    return Sealing(buffer, folder, part=part, schema=schema, rows=len(prepared), positives=positives)


def seal_incumbent(packed: bytes, schema: Schema, folder: Path) -> Deposit:
    """A model bundle of the bank's own (`models.bundle.pack`), committed and encrypted."""
    return Sealing(BytesIO(packed), folder, part="incumbent", schema=schema).finish()


__all__ = [
    "Deposit",
    "Part",
    "prepare_deposits",
    "read_and_prepare",
    "saved",
    "seal_incumbent",
    "seal_table",
    "sealing_of",
]
