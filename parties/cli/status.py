"""Who this party is, what it knows of its escrow, and what waits for it."""

from typing import Any

import typer

from contracts.answers import Answer
from contracts.errors import EscrowError, Exit
from contracts.lifecycle import TERMINAL
from contracts.pages import Line, Section, warned
from contracts.signing import key_id, public_bytes
from parties.certificates import connection, current, due
from parties.cli.desk import Desk
from parties.cli.screen import moment, page, short
from parties.client import Client
from parties.identity import Identity, pinned
from parties.witness import Witness

_NOT_CONNECTED = frozenset({"certificate-missing", "home-missing", "not-permitted"})


def command(ctx: typer.Context) -> Answer:
    """Show who this party is, its escrow, its certificate, its deposits, and the contracts that wait for it.

    What lies at home is shown also when the escrow cannot be reached.

    Example: party status --format json
    """
    desk: Desk = ctx.obj
    identity = desk.identity()
    data: dict[str, Any] = {
        "name": identity.name,
        "role": identity.role,
        "fingerprint": identity.signer.key_id,
        "home": str(desk.home),
        **_at_home(desk, identity),
    }
    try:
        with desk.client() as client:
            data |= {"reached": True, "not-asked": None, **_asked(client)}
    except EscrowError as error:
        if error.exit not in {Exit.CONNECTION, Exit.TIMEOUT} and error.code not in _NOT_CONNECTED:
            raise
        data |= {"reached": False, "not-asked": {"code": error.code, "message": error.message, "hint": error.hint}}
    data["head"] = Witness(desk.home).seen() or None
    return Answer(data, page(_page(data)))


def _at_home(desk: Desk, identity: Identity) -> dict[str, Any]:
    """The pinned escrow and the certificate, as far as there are any."""
    found: dict[str, Any] = {"escrow": None, "certificate": None}
    try:
        escrow, place = pinned(desk.home), connection(desk.home)
        found["escrow"] = {
            "ledger": escrow.ledger,
            "fingerprint": key_id(public_bytes(escrow.public_key)),
            "address": place.address,
            "enrolment": place.enrolment,
        }
        credentials = current(desk.home, identity, desk.now())
        found["certificate"] = {"until": credentials.not_after, "due": due(desk.home, desk.now())}
    except EscrowError as error:
        if error.code not in {"home-missing", "certificate-missing", "certificate-expired", "certificate-refused"}:
            raise
    return found


def _asked(client: Client) -> dict[str, Any]:
    """What only the escrow knows."""
    client.head()
    if client.identity.role == "auditor":
        return {"deposits": None, "kept": None, "waiting": None, "unfinished": None}
    cases = client.escrow.contracts()
    waiting = [each for each in cases if client.name in each.turn]
    deposits = [each for each in client.escrow.deposits() if not each.revoked]
    return {
        "deposits": len(deposits),
        "kept": sum(each.kept for each in deposits),
        "unfinished": sum(each.state not in TERMINAL for each in cases),
        "waiting": [{"digest": each.digest, "title": each.contract.title, "state": each.state} for each in waiting],
    }


def _page(data: dict[str, Any]) -> list[Section]:
    escrow, certificate, refused = data["escrow"], data["certificate"], data["not-asked"]
    lines = [
        Line(f"{data['name']} ({data['role']}), {data['home']}", "party"),
        Line(data["fingerprint"], "fingerprint"),
        Line(f"{escrow['ledger']} at {escrow['address']}" if escrow else "none yet: party enrol", "escrow"),
        *([Line(escrow["fingerprint"], "its fingerprint")] if escrow else []),
        Line(_until(certificate), "certificate"),
        Line(f"{data['head']} entries" if data["head"] else "none seen yet", "ledger"),
    ]
    if refused:
        note = f"Deposits and contracts could not be asked for: {refused['message']} {refused['hint']}"
        return [Section("", (*lines, *warned([note])))]
    if data["role"] == "auditor":
        return [Section("", tuple(lines))]
    kept = f", {data['kept']} of which stay{'s' if data['kept'] == 1 else ''} here" if data["kept"] else ""
    lines += [Line(f"{data['deposits']}{kept}", "deposits"), Line(f"{data['unfinished']} unfinished", "contracts")]
    waiting = tuple(Line(each["title"], short(each["digest"])) for each in data["waiting"])
    turn = Section("Waits for this party: party contract approve or reject", waiting)
    return [Section("", tuple(lines)), *([turn] if waiting else [])]


def _until(certificate: dict[str, Any] | None) -> str:
    if certificate is None:
        return "none: party enrol"
    renewed = "; renewed with the next connection" if certificate["due"] else ""
    return f"until {moment(certificate['until'])}{renewed}"
