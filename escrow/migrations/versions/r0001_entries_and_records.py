"""The ledger and its records."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first two tables."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "entries",
        sa.Column("position", number, primary_key=True, autoincrement=False),
        sa.Column("envelope", sa.String(71), nullable=False, unique=True),
        sa.Column("time", number, nullable=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
        sa.Column("nodes", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "records",
        sa.Column("key", sa.String(112), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False, index=True),
        sa.Column("state", sa.String(16), nullable=True, index=True),
        sa.Column("document", sa.LargeBinary, nullable=False),
    )
