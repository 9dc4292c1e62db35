"""How a deposit becomes a job's input: its key from the owner's approval, its bytes decrypted straight to the worker.

An approval seals, for each deposit, the age identity it was encrypted to and the salt of its commitment. What is
decrypted must be what was committed, or the run fails: a party cannot exchange its data after the others approved.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from contracts.canonical import SALT_BYTES, commitment, decode_base64, parse
from contracts.errors import EscrowError
from contracts.records import CaseRecord, DepositRecord, Key
from contracts.statements import ContractApproved, read
from escrow.ledger import Ledger
from escrow.vault import Vault, unseal_bytes


@dataclass(frozen=True)
class Unlocked:
    """What opens a party's deposit."""

    party: str
    commitment: str
    blob: str  # digest of the ciphertext
    identity: str = field(repr=False)
    salt: bytes = field(repr=False)


def unlocked(case: CaseRecord, ledger: Ledger, run_identity: str) -> Mapping[str, Unlocked]:
    """The contract's deposits by commitment, opened with the keys its approvals sealed to the run key.

    Raises:
        EscrowError: `key-refused` if an approval sealed something else.
    """
    sealed: dict[str, str] = {}
    for envelope in ledger.envelopes(sorted(case.approvals.values())):
        approval = read(envelope.payload)
        if isinstance(approval, ContractApproved):
            sealed |= approval.keys
    records = ledger.records(*(Key("deposit", commitment) for commitment in sealed))
    return {
        record.stated.commitment: _unlocked(record, record.stated.blob, sealed[record.stated.commitment], run_identity)
        for record in records.values()
        if isinstance(record, DepositRecord) and record.stated.blob is not None
    }


def _unlocked(record: DepositRecord, blob: str, sealed: str, run_identity: str) -> Unlocked:
    try:
        match parse(unseal_bytes(decode_base64(sealed), run_identity)):
            case {"identity": str(identity), "salt": str(salt), **nothing_else} if not nothing_else:
                if len(salt) == 2 * SALT_BYTES:
                    return Unlocked(record.stated.party, record.stated.commitment, blob, identity, bytes.fromhex(salt))
    except (ValueError, EscrowError):
        pass  # told below, in one way whatever it was
    raise EscrowError(
        "key-refused", f"{record.stated.party}'s approval does not open its deposit.", party=record.stated.party
    )


class _Hashed:
    """Writes through to a file and hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()


def source(vault: Vault, key: Unlocked) -> Callable[[BinaryIO], None]:
    """Writes a deposit's plaintext into an open file, and refuses it if it is not what was committed."""

    def write(file: BinaryIO) -> None:
        hashed = _Hashed(file)
        try:
            vault.unseal(key.blob, key.identity, hashed)
        except EscrowError as error:
            if error.code != "vault-sealed":
                raise
            raise EscrowError(
                "key-refused", "An approval does not open its party's deposit.", party=key.party
            ) from None
        if commitment(key.salt, hashed.digest()) != key.commitment:
            raise EscrowError("commitment-mismatch", "A deposit is not what its commitment says.", party=key.party)

    return write
