"""An index of the points with several seeds, from which ties with a frontier are told."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "point_repeated",
        "point",
        ["series_id", "family", "cost", "quality", "sd", "seeds"],
        sqlite_where=sa.text("sd IS NOT NULL"),
        postgresql_where=sa.text("sd IS NOT NULL"),
    )
