"""What concerns a party can be asked for: owners of records, parties of contracts, events of contracts.

All of it is filled in from the entries, by replaying them.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import sqlalchemy as sa
from alembic import op

from contracts.entries import Step, steps
from contracts.records import CaseRecord, DepositRecord, Key, Record, RuleRecord
from contracts.signing import Envelope
from contracts.statements import ContractProposed

revision = "0002"
down_revision = "0001"

_BATCH = 1000


def upgrade() -> None:
    """Make the column and the tables, and fill them in."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.add_column("records", sa.Column("owner", sa.String(32), nullable=True))
    op.create_index("ix_records_owner", "records", ["owner"])
    members = op.create_table(
        "members",
        sa.Column("party", sa.String(32), primary_key=True),
        sa.Column("contract", sa.String(71), primary_key=True),
        sqlite_with_rowid=False,
    )
    events = op.create_table(
        "events",
        sa.Column("contract", sa.String(71), primary_key=True),
        sa.Column("position", number, primary_key=True, autoincrement=False),
        sa.Column("time", number, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sqlite_with_rowid=False,
    )
    _fill(op.get_bind(), events, members)


def _fill(connection: sa.Connection, events: sa.Table, members: sa.Table) -> None:
    records: dict[Key, Record] = {}
    entries = sa.table("entries", sa.column("position"), sa.column("leaf"))
    query = sa.select(entries.c.leaf).order_by(entries.c.position)
    with connection.execute(query, execution_options={"yield_per": _BATCH}) as found:
        replaying = steps((bytes(row.leaf) for row in found), records, verifier=_verified_before)
        while batch := list(islice(replaying, _BATCH)):
            _insert(connection, events, (row for step in batch for row in _events(step)))
            _insert(connection, members, (row for step in batch for row in _members(step)))
    owned = sa.table("records", sa.column("key"), sa.column("owner"))
    fill = owned.update().where(owned.c.key == sa.bindparam("named")).values(owner=sa.bindparam("whose"))
    owners = [
        {"named": f"{key.kind}/{key.name}", "whose": record.stated.party}
        for key, record in records.items()
        if isinstance(record, DepositRecord | RuleRecord)
    ]
    if owners:
        connection.execute(fill, owners)


def _verified_before(envelope: Envelope, public: str) -> None:
    """Nothing stands among the entries whose signature was not verified."""


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterable[dict[str, Any]]) -> None:
    if listed := list(rows):
        connection.execute(table.insert(), listed)


def _events(step: Step) -> list[dict[str, Any]]:
    kind = step.entry.statement.kind  # type: ignore[attr-defined]
    contracts = [record.digest for record in step.changed if isinstance(record, CaseRecord)]
    place = {"position": step.entry.index, "time": step.entry.time, "kind": kind}
    return [{"contract": contract, **place} for contract in contracts]


def _members(step: Step) -> list[dict[str, Any]]:
    if not isinstance(step.entry.statement, ContractProposed):
        return []
    contract = step.entry.statement.contract
    return [{"party": name, "contract": contract.digest()} for name in contract.names()]
