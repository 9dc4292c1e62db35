"""Get admitted to an escrow, and a certificate for the connection."""

import re
import threading
from collections.abc import Iterator
from typing import Annotated, Final

import typer

from contracts.answers import Answer
from contracts.errors import EscrowError
from contracts.signing import key_id, public_bytes
from parties.certificates import Connection, connection, current
from parties.cli.desk import Desk, tell
from parties.cli.screen import moment
from parties.enrol import enrol, meet
from parties.identity import Identity, pinned

FIRST_WAIT: Final = 0.5  # seconds; each wait is longer than the one before
LONGEST_WAIT: Final = 30.0
_FINGERPRINT: Final = re.compile(r"ed25519:[0-9a-f]{64}")


def command(
    ctx: typer.Context,
    address: Annotated[str, typer.Argument(metavar="[HOST:PORT]", help="The escrow's address for enrolment.")] = "",
    fingerprint: Annotated[
        str, typer.Option(metavar="ed25519:…", help="The escrow's fingerprint, as its operator told it to you.")
    ] = "",
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Ask again until the operator has admitted this party.")] = False,
    wait_at_most: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait.")] = 3600.0,
) -> Answer:
    """Ask an escrow to admit this party, or for a certificate once its operator has.

    The first time names the escrow and pins the key of this fingerprint for good.
    Later calls need neither: they ask again, or get a new certificate.

    Example: party enrol escrow.example:7444 --fingerprint ed25519:1f0c… --wait
    """
    desk: Desk = ctx.obj
    identity = desk.identity()
    place, compared = _escrow(desk, address, fingerprint)
    admitted, found = _ask(desk, identity, place, compared)
    for seconds in _waits(wait_at_most) if wait and not admitted else ():
        tell(f"Not admitted yet; asking again in {seconds:.0f} s. This party's fingerprint: {identity.signer.key_id}")
        threading.Event().wait(seconds)
        admitted, found = _ask_again(desk, identity, found.enrolment, compared, found)
        if admitted:
            break
    if wait and not admitted:
        told = f"The operator has not admitted {identity.name} within {wait_at_most:.0f} s."
        raise EscrowError("admission-pending", told)
    return _answer(desk, identity, found, admitted=admitted)


def _escrow(desk: Desk, address: str, fingerprint: str) -> tuple[str, str]:
    """Where to ask, and whose key must have signed the card."""
    if fingerprint and not _FINGERPRINT.fullmatch(fingerprint):
        raise EscrowError("usage", "A fingerprint is ed25519: and 64 hexadecimal digits.", "Ask the operator for it.")
    known = (desk.home / "escrow.json").exists()
    if not known and not (address and fingerprint):
        raise EscrowError(
            "usage",
            "This party knows no escrow yet.",
            "Name its address and fingerprint: party enrol HOST:PORT --fingerprint ed25519:….",
        )
    compared = fingerprint or key_id(public_bytes(pinned(desk.home).public_key))
    return address or connection(desk.home).enrolment, compared


def _ask(desk: Desk, identity: Identity, address: str, fingerprint: str) -> tuple[bool, Connection]:
    card, found = meet(desk.home, address, fingerprint)
    return enrol(desk.home, identity, card, found), found


def _ask_again(
    desk: Desk, identity: Identity, address: str, fingerprint: str, before: Connection
) -> tuple[bool, Connection]:
    """Ask once more; an escrow that cannot be reached for a while has not answered."""
    try:
        return _ask(desk, identity, address, fingerprint)
    except EscrowError as error:
        if error.code not in {"escrow-unreachable", "escrow-slow"}:
            raise
        tell(error.message)
        return False, before


def _waits(at_most: float) -> Iterator[float]:
    """How long to wait each time, until so many seconds are over in all."""
    seconds, left = FIRST_WAIT, at_most
    while left > 0:
        yield min(seconds, left)
        left -= seconds
        seconds = min(seconds * 1.5, LONGEST_WAIT)


def _answer(desk: Desk, identity: Identity, found: Connection, *, admitted: bool) -> Answer:
    escrow = pinned(desk.home)
    data = {
        "admitted": admitted,
        "name": identity.name,
        "fingerprint": identity.signer.key_id,
        "escrow": {
            "ledger": escrow.ledger,
            "fingerprint": key_id(public_bytes(escrow.public_key)),
            "address": found.address,
            "enrolment": found.enrolment,
        },
        "until": None,
    }
    if not admitted:
        lines = [
            f"{escrow.ledger} has the request of {identity.name}; the operator must admit it. Read this out:",
            f"  {identity.signer.key_id}",
            "",
            "Next: party enrol, when the operator has admitted it.",
        ]
        return Answer(data, "\n".join(lines))
    until = current(desk.home, identity, desk.now()).not_after
    lines = [
        f"{identity.name} is admitted to {escrow.ledger}. Its certificate ends {moment(until)} and renews itself.",
        "",
        "Next: party dataset add TABLE --schema FILE." if identity.role == "party" else "Next: party ledger verify.",
    ]
    return Answer({**data, "until": until}, "\n".join(lines))
