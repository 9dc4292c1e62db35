"""A bank's connection to the escrow it pinned, with certificates that renew themselves.

Rules:
1. A certificate that is due is renewed before it is used. While it is good, a renewal that fails is told, no more.
2. An escrow whose certificate this bank cannot check, or that takes no connection, may have changed its authority or
   its port. Its card says so, and is believed only if the pinned key signed it. The bank trusts the card's authorities,
   gets a certificate of theirs if its own is of none, and tries once more; if that changes nothing, it stops.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from contracts.enrolment import Card
from contracts.errors import EscrowError
from contracts.signing import key_id, public_bytes
from parties.certificates import Connection, Credentials, alone, certified, connection, current, due, trust
from parties.enrol import always, enrol, meet
from parties.identity import Identity, pinned
from parties.patience import Warn, unwarned
from parties.remote import CALL_SECONDS, RemoteEscrow
from parties.witness import Witness

_CHANGED: Final = frozenset({"escrow-untrusted", "escrow-unreachable"})
"""What a bank meets that knows an older authority or port of its escrow."""


def connect(
    home: Path, identity: Identity, now: int, *, seconds: float = CALL_SECONDS, warn: Warn = unwarned
) -> RemoteEscrow:
    """A session with the pinned escrow, which has answered once.

    Args:
        home: the party's directory.
        identity: the party's keys.
        now: whole seconds since 1970.
        seconds: how long one call may take.
        warn: hears what went wrong and is no reason to stop.

    Raises:
        EscrowError: `certificate-missing` if the operator has not admitted this bank, or as `parties.enrol`, or what
            the escrow refuses with.
    """
    if due(home, now):
        _renewed(home, identity, now, warn)
    answering = partial(_answering, home, identity, seconds=seconds, warn=warn)
    known = connection(home), current(home, identity, now)
    try:
        return answering(*known)
    except EscrowError as error:
        if error.code not in _CHANGED:
            raise
        first = error
    try:
        _catch_up(home, identity)
    except EscrowError as error:
        raise first from error
    learned = connection(home), current(home, identity, now)
    if learned == known:
        raise first
    return answering(*learned)


def renew(home: Path, identity: Identity, *, wanted: Callable[[], bool] = always) -> Connection:
    """Fetch the escrow's card again and get a certificate for a new TLS key, if one is `wanted`.

    Raises:
        EscrowError: as `parties.enrol`; `not-permitted` while the operator has not admitted this bank.
    """
    card, found = _card(home)
    _certify(home, identity, card, found, wanted)
    return found


def _card(home: Path) -> tuple[Card, Connection]:
    """The pinned escrow's card as it is now."""
    return meet(home, connection(home).enrolment, key_id(public_bytes(pinned(home).public_key)))


def _certify(home: Path, identity: Identity, card: Card, found: Connection, wanted: Callable[[], bool]) -> None:
    if not enrol(home, identity, card, found, wanted=wanted):
        raise EscrowError(
            "not-permitted",
            "The operator has not admitted this party yet.",
            "Give the operator this party's fingerprint; `party status` shows it.",
        )


def _renewed(home: Path, identity: Identity, now: int, warn: Warn) -> None:
    """Renew a certificate that is due; if that fails, go on with the one there is, unless its time is over."""
    try:
        renew(home, identity, wanted=lambda: due(home, now))
    except EscrowError as error:
        try:
            until = current(home, identity, now).not_after
        except EscrowError:
            raise error from None
        left = (until - now) // 3600
        warn(f"The certificate ends in {left} h and could not be renewed: {error.message} [{error.code}]")


def _catch_up(home: Path, identity: Identity) -> None:
    """Learn from the escrow's card where it is and whose certificates it shows, and get one of those."""
    card, found = _card(home)
    with alone(home):
        trust(home, "".join(card.authorities))
    if not certified(home):
        _certify(home, identity, card, found, lambda: not certified(home))


def _answering(
    home: Path, identity: Identity, where: Connection, credentials: Credentials, *, seconds: float, warn: Warn
) -> RemoteEscrow:
    """A session whose escrow has answered; a handshake is refused only then."""
    session = RemoteEscrow.connect(
        where.address,
        credentials,
        Witness(home),
        ledger=pinned(home).ledger,
        caller=identity.name,
        seconds=seconds,
        warn=warn,
    )
    try:
        session.head()
    except BaseException:
        session.close()
        raise
    return session
