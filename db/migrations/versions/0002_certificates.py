"""Which images a run read, how many its data set's policy left out, and how many are on the device at a time."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("micro_batch", sa.BigInteger(), nullable=True))
    op.add_column("run", sa.Column("data_digest", sa.String(64), nullable=True))
    op.add_column("run", sa.Column("data_skipped", sa.BigInteger(), nullable=True))
