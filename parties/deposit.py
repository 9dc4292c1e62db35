"""A deposit made ready at the bank: checked, split into train and holdout by the schema's rule, committed, encrypted.

Features are computed here, over the bank's own full history, so what is deposited holds no more than the contract's
schema asks. Each file is encrypted to a fresh age key that only the bank holds; an approval seals that key, with the
salt of the commitment, to the contract's run key.
"""

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal, Self

import pyrage
from pyrage import x25519

from contracts.canonical import SALT_BYTES, canonical, commitment, digest, encode_base64
from contracts.errors import EscrowError
from contracts.proceedings import term_digest
from contracts.schema import Schema
from contracts.statements import DataDeposited
from contracts.terms import Digest
from models.features import prepare
from models.table import Prepared, read_table, write_prepared

Part = Literal["train", "holdout", "incumbent"]
CHUNK = 1 << 18


@dataclass(frozen=True)
class Deposit:
    """One committed and encrypted file, and the secrets that open it."""

    part: Part
    commitment: str
    schema: Digest
    rows: int | None
    positives: int | None
    blob: Digest
    size: int
    path: Path  # of the ciphertext
    identity: str = field(repr=False)  # age secret key
    salt: str = field(repr=False)  # hex

    def statement(self, ledger: str, party: str) -> DataDeposited:
        """What the party states of it."""
        return DataDeposited(
            ledger=ledger,
            party=party,
            part=self.part,
            commitment=self.commitment,
            data_schema=self.schema,
            rows=self.rows,
            positives=self.positives,
            blob=self.blob,
            size=self.size,
        )

    def chunks(self) -> Iterator[bytes]:
        """The ciphertext."""
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def sealed_key(self, run_recipient: str) -> str:
        """What opens the deposit, encrypted to a run key; base64, as an approval carries it."""
        opened = canonical({"identity": self.identity, "salt": self.salt})
        return encode_base64(pyrage.encrypt(opened, [x25519.Recipient.from_str(run_recipient)]))

    def save(self, folder: Path) -> None:
        """Keep the secrets beside the ciphertext, mode 0600."""
        path = folder / f"{self.commitment.removeprefix('sha256-salted:')}.json"
        about = {**self.__dict__, "path": self.path.name}
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(about, file)

    @classmethod
    def load(cls, path: Path) -> Self:
        """A deposit that was saved."""
        about = json.loads(path.read_text())
        return cls(**{**about, "path": path.parent / about["path"]})


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
    buffer = BytesIO()
    write_prepared(buffer, prepared)
    positives = prepared.positives if part == "holdout" else None
    return _sealed(buffer.getvalue(), part, schema, folder, rows=len(prepared), positives=positives)


def seal_incumbent(packed: bytes, schema: Schema, folder: Path) -> Deposit:
    """A model bundle of the bank's own (`models.bundle.pack`), committed and encrypted."""
    return _sealed(packed, "incumbent", schema, folder, rows=None, positives=None)


def _sealed(
    content: bytes, part: Part, schema: Schema, folder: Path, *, rows: int | None, positives: int | None
) -> Deposit:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    salt = secrets.token_bytes(SALT_BYTES)
    bound = commitment(salt, digest(content))
    identity = x25519.Identity.generate()
    path = folder / f"{bound.removeprefix('sha256-salted:')}.age"
    blob = pyrage.encrypt(content, [identity.to_public()])
    path.write_bytes(blob)
    deposit = Deposit(
        part=part,
        commitment=bound,
        schema=term_digest(schema),
        rows=rows,
        positives=positives,
        blob=digest(blob),
        size=len(blob),
        path=path,
        identity=str(identity),
        salt=salt.hex(),
    )
    deposit.save(folder)
    return deposit


def saved(folder: Path, commitments: tuple[str, ...]) -> dict[str, Deposit]:
    """The deposits kept in `folder` under these commitments.

    Raises:
        EscrowError: `deposit-unknown` if one is not there.
    """
    found = {}
    for each in commitments:
        path = folder / f"{each.removeprefix('sha256-salted:')}.json"
        if not path.is_file():
            raise EscrowError("deposit-unknown", f"The secrets of the deposit {each} are not in {folder}.")
        found[each] = Deposit.load(path)
    return found
