"""The escrow's certificate authority: show it, rotate it, drop the old ones."""

import time
from pathlib import Path

from contracts.answers import EPILOG, Answer
from escrow.cli import application
from escrow.cli.home import Home, facts

app = application()


@app.callback(epilog=EPILOG)
def noun() -> None:
    """The escrow's certificate authority: show it, rotate it, drop the old ones.

    Nothing here touches the ledger's key, which banks have pinned, and nothing needs a restart.

    Example: escrow certificate rotate --home /var/lib/escrow
    """


@app.command("show", epilog=EPILOG)
def show(home: Home) -> Answer:
    """Show how many authorities are trusted, and how long the current one and the server's certificate last.

    Example: escrow certificate show --home /var/lib/escrow
    """
    return _shown(home)


@app.command("rotate", epilog=EPILOG)
def rotate(home: Home) -> Answer:
    """Make a new authority that issues from now on; those before are trusted until they are dropped.

    Banks fetch it with their next certificate, within 60 days; then drop the old ones.

    Example: escrow certificate rotate --home /var/lib/escrow
    """
    from escrow.authority import Authority  # noqa: PLC0415 - help and wrong usage answer at once

    Authority.open(home).rotate(int(time.time()))
    return _shown(home)


@app.command("drop-old", epilog=EPILOG)
def drop_old(home: Home) -> Answer:
    """Trust the current authority alone: certificates of an older one are refused in every new session.

    Banks that have not renewed since the rotation must enrol again.

    Example: escrow certificate drop-old --home /var/lib/escrow
    """
    from escrow.authority import Authority  # noqa: PLC0415 - help and wrong usage answer at once

    Authority.open(home).drop_old()
    return _shown(home)


def _shown(home: Path) -> Answer:
    from escrow.authority import Authority  # noqa: PLC0415 - help and wrong usage answer at once
    from escrow.certificates import days_left  # noqa: PLC0415

    authority = Authority.open(home)
    days = days_left(authority, int(time.time()))
    trusted = len(authority.authorities())
    data = {"trusted": trusted, "days": {name: round(left, 2) for name, left in days.items()}}
    rows = [("trusted authorities", trusted)]
    return Answer(data, facts([*rows, *((f"{name} lasts", f"{left:.0f} days") for name, left in days.items())]))
