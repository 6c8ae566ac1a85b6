"""Further cost axes and standing frontiers of points, imported results, and laws. `db/migrate.py` fills the points."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Alembic copies a table of SQLite with its indexes, but forgets which way a column of them is sorted.
    op.drop_index("point_frontier", "point")
    with op.batch_alter_table("point") as point:
        for name in ("cost", "epochs"):
            point.alter_column(name, existing_type=sa.Double(), nullable=True)
        for name in ("data_rows", "parameters"):
            point.alter_column(name, existing_type=sa.BigInteger(), nullable=True)
        point.add_column(sa.Column("pretraining", sa.String(64), server_default="", nullable=False))
        for name in ("images", "forward_flops", "device_seconds"):
            point.add_column(sa.Column(name, sa.Double(), nullable=True))
        point.add_column(sa.Column("device", sa.Text(), nullable=True))
        point.add_column(sa.Column("money", sa.Double(), nullable=True))
        for name in ("external", "leads"):
            point.add_column(sa.Column(name, sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index("point_frontier", "point", ["series_id", "family", "cost", sa.text("quality DESC")])
    op.create_index(
        "point_leads",
        "point",
        ["series_id", "family", "cost", "quality"],
        sqlite_where=sa.text("leads"),
        postgresql_where=sa.text("leads"),
    )
    op.create_table(
        "external",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id"), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("configuration", sa.String(64), nullable=False),
        sa.Column("training", sa.String(64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("image_size", sa.Integer(), nullable=False),
        sa.Column("family", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("train_flops", sa.Double(), nullable=True),
        sa.Column("device_seconds", sa.Double(), nullable=True),
        sa.Column("money", sa.Double(), nullable=True),
        sa.Column("images", sa.Double(), nullable=True),
        sa.Column("forward_flops", sa.Double(), nullable=True),
        sa.Column("parameters", sa.BigInteger(), nullable=True),
        sa.Column("data_rows", sa.BigInteger(), nullable=True),
        sa.Column("epochs", sa.Double(), nullable=True),
        sa.Column("imported_at", sa.Double(), nullable=False),
        sa.UniqueConstraint("study_id", "key", name="external_once_a_study"),
    )
    op.create_table(
        "law",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id"), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("points_digest", sa.String(64), nullable=False),
        sa.Column("form", sa.Text(), nullable=False),
        sa.Column("family", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("image_size", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("draws", sa.Text(), nullable=False),
        sa.Column("fitted_at", sa.Double(), nullable=False),
        sa.UniqueConstraint("study_id", "key", name="law_once_a_study"),
    )
