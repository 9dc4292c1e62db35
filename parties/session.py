"""A bank's connection to the escrow it pinned, with certificates that renew themselves."""

from pathlib import Path

from contracts.errors import EscrowError
from contracts.signing import key_id, public_bytes
from parties.certificates import Connection, connection, current, due
from parties.enrol import enrol, meet
from parties.identity import Identity, pinned
from parties.remote import CALL_SECONDS, RemoteEscrow
from parties.witness import Witness


def connect(home: Path, identity: Identity, now: int, *, seconds: float = CALL_SECONDS) -> RemoteEscrow:
    """A session with the pinned escrow; a certificate that is due is renewed first.

    Raises:
        EscrowError: `certificate-missing` if the operator has not admitted this bank, or as `parties.enrol`.
    """
    found = renew(home, identity) if due(home, now) else connection(home)
    credentials = current(home, identity, now)
    ledger = pinned(home).ledger
    return RemoteEscrow.connect(
        found.address, credentials, Witness(home), ledger=ledger, caller=identity.name, seconds=seconds
    )


def renew(home: Path, identity: Identity) -> Connection:
    """Fetch the escrow's card again and get a certificate for a new TLS key.

    Raises:
        EscrowError: as `parties.enrol`; `not-permitted` while the operator has not admitted this bank.
    """
    escrow = pinned(home)
    card, found = meet(home, connection(home).enrolment, key_id(public_bytes(escrow.public_key)))
    if not enrol(home, identity, card, found):
        raise EscrowError(
            "not-permitted",
            "The operator has not admitted this party yet.",
            "Give the operator this party's fingerprint; `party status` shows it.",
        )
    return found
