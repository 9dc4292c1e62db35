"""Make a party's keys and its policy."""

from typing import Annotated

import typer

from contracts.answers import Answer
from contracts.errors import EscrowError
from contracts.statements import Role
from parties import policy
from parties.cli.desk import Desk, new_passphrase
from parties.identity import Identity, write_private


def command(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and hyphens.")],
    role: Annotated[
        str, typer.Option(metavar="party|auditor", help="An auditor reads the ledger, and nothing else.")
    ] = "party",
    *,
    locked: Annotated[
        bool, typer.Option("--passphrase", help="Lock the keys: typed, or from the file PARTY_PASSPHRASE_FILE names.")
    ] = False,
) -> Answer:
    """Make this party's keys in its home, and a policy to edit, and show the fingerprint to read to the operator.

    Example: party init north --home /etc/party
    """
    desk: Desk = ctx.obj
    roles: dict[str, Role] = {"party": "party", "auditor": "auditor"}
    if role not in roles:
        raise EscrowError("usage", f"--role is party or auditor, not {role!r}.")
    home = desk.home
    identity = Identity.create(home, name, new_passphrase() if locked else None, roles[role])
    path = home / policy.FILE
    if not path.exists():
        write_private(path, policy.default_text().encode())
    data = {
        "name": name,
        "role": role,
        "fingerprint": identity.signer.key_id,
        "home": str(home),
        "policy": str(path),
        "locked": locked,
    }
    lines = [
        f"The keys of {name} are in {home}; they never leave it. Keep a copy: nothing else opens the deposits.",
        f"Its policy is {path}: edit it before you approve anything.",
        "",
        "Fingerprint, to read to the operator over the telephone:",
        f"  {identity.signer.key_id}",
        "",
        "Next: party enrol HOST:PORT --fingerprint FINGERPRINT, both of which the operator tells you.",
    ]
    return Answer(data, "\n".join(lines))
