"""Admit parties after comparing fingerprints, list them, revoke them."""

from typing import Annotated

import typer

from contracts.answers import EPILOG, Answer, printable
from escrow.cli import application
from escrow.cli.home import Home, ask, table

app = application()

Name = Annotated[str, typer.Argument(metavar="NAME")]


@app.callback(epilog=EPILOG)
def noun() -> None:
    """Admit parties after comparing fingerprints, list them, revoke them.

    Example: escrow party list --home /var/lib/escrow
    """


@app.command("list", epilog=EPILOG)
def list_(home: Home) -> Answer:
    """List who was admitted and who waits to be, with their fingerprints.

    Example: escrow party list --home /var/lib/escrow
    """
    data = ask(home, "parties")
    rows = [(each["name"], each["role"], each["state"], each["fingerprint"]) for each in data["parties"]]
    return Answer(data, table(("NAME", "ROLE", "STATE", "FINGERPRINT"), rows, "Nobody has asked to be admitted."))


@app.command("admit", epilog=EPILOG)
def admit(
    name: Name,
    fingerprint: Annotated[str, typer.Option(help="As the party read it out to you, all of it: ed25519:…")],
    home: Home,
) -> Answer:
    """Admit a party whose fingerprint you compared with it over another channel than this network.

    The fingerprint is that of the party's signing key; `party status` shows it at the bank.
    Do not copy it from `escrow party list`: whoever sent that request may be somebody else.

    Example: escrow party admit north --fingerprint ed25519:… --home /var/lib/escrow
    """
    data = ask(home, "admit", name=name, fingerprint=fingerprint)
    return Answer(data, printable(f"{name} is admitted. It gets its certificate with `party enrol`."))


@app.command("reject", epilog=EPILOG)
def reject(name: Name, home: Home) -> Answer:
    """Drop every request that waits under a name.

    Example: escrow party reject nort --home /var/lib/escrow
    """
    return Answer(ask(home, "reject", name=name), printable(f"No request of {name} waits any more."))


@app.command("revoke", epilog=EPILOG)
def revoke(name: Name, home: Home) -> Answer:
    """Revoke a party's admission, for good: its unfinished contracts are halted and its sessions end.

    What it signed before stands, and its name is never given again.

    Example: escrow party revoke north --home /var/lib/escrow
    """
    return Answer(ask(home, "revoke", name=name), printable(f"{name}'s admission is revoked."))
