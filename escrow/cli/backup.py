"""Copy an escrow into one archive, also while it serves."""

from pathlib import Path
from typing import Annotated

import typer

from contracts.answers import Answer, printable
from escrow.cli.home import Home, ask

File = Annotated[Path, typer.Argument(metavar="FILE", help="The archive; replaced if it is there.")]


def backup(file: File, home: Home) -> Answer:
    """Copy an escrow into one archive, also while it serves: its key, ledger, certificates and encrypted files.

    The archive holds the escrow's key, and the run keys of contracts that have not ended: keep it as safe as the
    directory itself, and delete it in time, for a key that was erased here lives on there.
    Encrypted files that lie in object storage are not copied: that storage needs a backup of its own.

    Example: escrow backup /backup/escrow.tar --home /var/lib/escrow
    """
    data = ask(home, "backup", path=str(file.absolute()))
    lines = [f"{data['entries']} entries, {data['files']} encrypted files and {data['keys']} run keys are in {file}."]
    if data["object-storage"]:
        lines.append("The files in object storage are not: back that storage up by its own means.")
    return Answer(data, printable("\n".join(lines)))
