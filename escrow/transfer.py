"""A ledger as one file and back: the backup that both kinds of database share, and what an auditor takes home.

The file is that of `contracts.ledgerfile`. Restoring replays it: every entry is verified while it is written, and the
whole stands in the database or nothing.
"""

from itertools import islice
from pathlib import Path
from typing import BinaryIO

from contracts import ledgerfile
from contracts.entries import steps
from contracts.errors import EscrowError
from contracts.notes import Checkpoint, parse_note
from contracts.records import Key, Record
from contracts.signing import PublicKey, Signer
from contracts.transparency import Tree
from escrow import rows
from escrow.disk import arriving
from escrow.engine import Database
from escrow.ledger import Ledger
from escrow.migrations import migrate
from escrow.tables import RECORDS, record_row


def export(ledger: Ledger, file: ledgerfile.Sink, origin: str, signer: Signer) -> Checkpoint:
    """Write the ledger as it stands now, while it goes on; the head that the file has."""
    note = ledger.head(origin, signer)
    head = parse_note(note, {origin: signer.public})
    ledgerfile.write(file, ledger.leaves(0, head.size), note)
    return head


def backup(ledger: Ledger, path: Path, origin: str, signer: Signer) -> Checkpoint:
    """Export the ledger, while it goes on, into a file that is whole and on the disk, or not there.

    Raises:
        EscrowError: `file-unwritable`, or `storage-full`.
    """
    with arriving(path) as file:
        return export(ledger, file, origin, signer)


def restore(url: str, file: BinaryIO, origin: str, key: PublicKey) -> Checkpoint:
    """Fill an empty database with an exported ledger, every signature and rule verified, all or nothing.

    Args:
        url: of the database.
        file: what `export` wrote.
        origin: of the ledger.
        key: its pinned public key.

    Returns:
        The head of the file, which is now the ledger's.

    Raises:
        EscrowError: `database-in-use` if the database holds entries, as `contracts.ledgerfile.verified` if the file is
            not the whole of this ledger, as `Ledger` if the database cannot be opened.
    """
    database = Database(url)
    try:
        with database.turn() as connection, connection.begin():
            migrate(connection)
            if connection.execute(rows.LAST).first():
                raise EscrowError("database-in-use", "The database holds a ledger.")
            opened = ledgerfile.read(file)
            head, tree, records = ledgerfile.head(opened, origin, key), Tree(), dict[Key, Record]()
            replaying = steps(opened.leaves, records, key=key)
            while batch := list(islice(replaying, rows.BATCH)):
                rows.store_steps(connection, batch)
                tree = batch[-1].tree
            ledgerfile.fits(head, tree)
            rows.insert(connection, RECORDS, [record_row(record) for record in records.values()])
    finally:
        database.close()
    return head


__all__ = ["backup", "export", "restore"]
