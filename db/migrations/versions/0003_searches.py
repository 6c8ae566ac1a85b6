"""Hyper-parameter searches, and why a study wants a run."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("study_run", sa.Column("role", sa.Text(), nullable=True))
    op.add_column("study_run", sa.Column("transfer", sa.Text(), nullable=True))
    op.create_table(
        "search",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id"), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("upstream_id", sa.Integer(), sa.ForeignKey("run.id"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("transfer", sa.Text(), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("optuna_study", sa.Text(), nullable=False),
        sa.Column("cpus", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("micro_batch", sa.BigInteger(), nullable=True),
        sa.Column("together", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=True),
        sa.Column("chosen", sa.Text(), nullable=True),
        sa.Column("development", sa.Double(), nullable=True),
        sa.Column("edge", sa.Text(), nullable=True),
        sa.Column("extended", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("trials", sa.Integer(), server_default="0", nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.UniqueConstraint("study_id", "key", name="search_once_a_study"),
    )
    op.create_index("ix_search_upstream_id", "search", ["upstream_id"])
