"""Show, renew or revoke what this party connects with.

Certificates renew themselves; these commands are for looking, and for a TLS key that others may have seen.
"""

import re
from typing import Annotated, Any

import typer

from contracts import statements as st
from contracts.answers import Answer
from contracts.errors import EscrowError
from parties.certificates import Credentials, current, due
from parties.cli import EPILOG, application
from parties.cli.desk import Desk
from parties.cli.screen import moment
from parties.identity import Identity, pinned
from parties.session import renew

app = application()


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Show, renew or revoke what this party connects with.

    Example: party certificate show
    """


@app.command("show", epilog=EPILOG)
def show(ctx: typer.Context) -> Answer:
    """Show the certificate in use: until when, and the digest of its TLS key.

    Example: party certificate show
    """
    desk: Desk = ctx.obj
    credentials = current(desk.home, desk.identity(), desk.now())
    renews = due(desk.home, desk.now())
    words = ["It will be renewed with the next connection."] if renews else []
    return Answer({**_data(credentials), "due": renews}, "\n".join([*_words(credentials), *words]))


@app.command("renew", epilog=EPILOG)
def renewed(ctx: typer.Context) -> Answer:
    """Make a new TLS key and get a certificate for it, now.

    The key before it stays good until its certificate ends, unless you revoke it.

    Example: party certificate renew
    """
    desk: Desk = ctx.obj
    identity = desk.identity()
    before = _key(desk, identity)
    renew(desk.home, identity)
    credentials = current(desk.home, identity, desk.now())
    return Answer({**_data(credentials), "before": before}, "\n".join(["Renewed.", *_words(credentials)]))


@app.command("revoke", epilog=EPILOG)
def revoke(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="Digest of a TLS key; the one in use if left out.")] = "",
) -> Answer:
    """State on the ledger that a TLS key is this party's no longer: its sessions end, and it is never certified again.

    The key in use is exchanged for a new one first, so nobody is locked out.

    Example: party certificate revoke sha256:0c5f…
    """
    desk: Desk = ctx.obj
    identity = desk.identity()
    if key and not re.fullmatch(r"sha256:[0-9a-f]{64}", key):
        raise EscrowError("usage", "A TLS key is named by sha256: and 64 hexadecimal digits.", "See certificate show.")
    used = _key(desk, identity)
    gone = key or used
    if gone is None:
        raise EscrowError("certificate-missing", f"{desk.home} holds no certificate whose key could be revoked.")
    if gone == used:
        renew(desk.home, identity)
    with desk.client() as client:
        ledger = pinned(desk.home).ledger
        receipt = client.submit(st.CertificateRevoked(ledger=ledger, party=client.name, key=gone))
    credentials = current(desk.home, identity, desk.now())
    lines = [f"Revoked on the ledger, entry {receipt.index}: {gone}", "In use now:", *_words(credentials)]
    return Answer({"revoked": gone, "entry": receipt.index, **_data(credentials)}, "\n".join(lines))


def _key(desk: Desk, identity: Identity) -> str | None:
    """The TLS key in use, if its certificate has not ended."""
    try:
        return current(desk.home, identity, desk.now()).key_digest
    except EscrowError as error:
        if error.code not in {"certificate-missing", "certificate-expired"}:
            raise
        return None


def _data(credentials: Credentials) -> dict[str, Any]:
    return {"key": credentials.key_digest, "until": credentials.not_after}


def _words(credentials: Credentials) -> list[str]:
    return [f"TLS key  {credentials.key_digest}", f"until    {moment(credentials.not_after)}"]
