"""The kind of device that imported device time is of."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("external", sa.Column("device", sa.Text(), nullable=True))
