"""Hostile parties and operators as code.

A party plays through the verbs that any bank has (`contracts.api`), with statements and files of its own making. An
operator has the escrow's directory and its key: whatever it does to them, somebody else must be able to see.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contracts import statements as st
from contracts.api import Escrow, Receipt
from contracts.entries import leaf
from contracts.schema import Schema
from contracts.signing import Envelope, Signer, sign
from contracts.statements import Statement
from contracts.transparency import Tree, leaf_hash
from escrow import home
from models.table import Prepared
from parties.client import Client
from parties.deposit import Deposit, Part, seal_table


def submit(session: Escrow, statement: Statement, signer: Signer) -> Receipt:
    """Any statement, signed by anybody, through anybody's session."""
    return session.submit(sign(statement.payload(), signer).to_bytes())


def approval(
    bank: Client, contract: str, *, party: str | None = None, ledger: str | None = None
) -> st.ContractApproved:
    """The approval a bank would sign, in its own name or in another's."""
    view = bank.view(contract)
    held = {path.stem: Deposit.load(path) for path in bank.folder.glob("*.json")}
    own = view.contract.contribution(party or bank.name)
    keys = {
        each: held[each.removeprefix("sha256-salted:")].sealed_key(view.run_recipient or "")
        for each in (own.commitments() if own else ())
        if each.removeprefix("sha256-salted:") in held
    }
    return st.ContractApproved(
        ledger=ledger or bank.escrow.info().ledger, party=party or bank.name, contract=contract, keys=keys
    )


def miscounted(deposit: Deposit, *, rows: int = 0, positives: int = 0) -> Deposit:
    """A deposit of which the party states more rows or frauds than it has."""
    more = None if deposit.positives is None else deposit.positives + positives
    return replace(deposit, rows=(deposit.rows or 0) + rows, positives=more)


def exchanged(committed: Prepared, sent: Prepared, deposit: Callable[[Prepared], Deposit]) -> Deposit:
    """The commitment of one table with the encrypted bytes of another."""
    honest, other = deposit(committed), deposit(sent)
    swapped = replace(
        other, commitment=honest.commitment, salt=honest.salt, rows=honest.rows, positives=honest.positives
    )
    swapped.save()
    return swapped


def sealer(bank: Client, part: Part, schema: Schema) -> Callable[[Prepared], Deposit]:
    """How a bank seals a table as one part of its contribution."""
    return lambda table: seal_table(table, part, schema, bank.folder)


@dataclass(frozen=True)
class Rewound:
    """An escrow that shows a bank the ledger of another directory, an older one or a fork, and answers all else."""

    session: Escrow
    receipt: Receipt

    def submit(self, envelope: bytes) -> Receipt:  # noqa: ARG002 - whatever is submitted
        """The receipt of the other ledger."""
        return self.receipt

    def __getattr__(self, name: str) -> Any:
        """The other ledger's verbs."""
        return getattr(self.session, name)


@dataclass(frozen=True)
class Operator:
    """Whoever has the escrow's directory: edits its database, and signs with its key what the rules would refuse."""

    directory: Path

    def execute(self, statement: str, values: Sequence[object] = ()) -> None:
        """Change the database directly."""
        with closing(sqlite3.connect(self.directory / home.LEDGER)) as connection, connection:
            connection.execute(statement, values)

    def leaves(self) -> list[bytes]:
        """All entries."""
        with closing(sqlite3.connect(self.directory / home.LEDGER)) as connection:
            return [bytes(row[0]) for row in connection.execute("SELECT leaf FROM entries ORDER BY position")]

    def rebuild(self, leaves: Iterable[bytes], envelopes: Iterable[str]) -> None:
        """Write the whole ledger anew, hashes and all, so that nothing but its contents can show the change."""
        tree, rows = Tree(), []
        for position, (data, envelope) in enumerate(zip(leaves, envelopes, strict=True)):
            tree, nodes = tree.append(leaf_hash(data))
            rows.append((position, envelope, _time(data), data, b"".join(nodes)))
        with closing(sqlite3.connect(self.directory / home.LEDGER)) as connection, connection:
            connection.execute("DELETE FROM entries")
            connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", rows)

    def sign(self, statement: Statement) -> Envelope:
        """A statement with the escrow's own signature."""
        signer, _ = home.open_key(self.directory)
        return sign(statement.payload(), signer)

    def force(self, statement: Statement, time: int) -> None:
        """Put a statement on the ledger that the rules refuse, with true hashes and a true signature."""
        envelope = self.sign(statement)
        leaves = [*self.leaves(), leaf(envelope, time)]
        self.rebuild(leaves, [*self._envelopes(), envelope.digest])

    def _envelopes(self) -> list[str]:
        with closing(sqlite3.connect(self.directory / home.LEDGER)) as connection:
            return [str(row[0]) for row in connection.execute("SELECT envelope FROM entries ORDER BY position")]


def _time(data: bytes) -> int:
    return int(data.rpartition(b":")[2].removesuffix(b"}"))
