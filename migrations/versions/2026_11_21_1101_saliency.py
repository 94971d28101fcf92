"""Saliency of a job's pinned examples, and previews."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _create_saliency_snapshots()
    _create_saliency_previews()


def downgrade() -> None:
    op.drop_table("saliency_previews")
    op.drop_table("saliency_snapshots")


def _create_saliency_snapshots() -> None:
    op.create_table(
        "saliency_snapshots",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("examples", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["fine_tuning_jobs.id"],
            name=op.f("fk_saliency_snapshots_job_id_fine_tuning_jobs"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["sha256"], ["blobs.sha256"], name=op.f("fk_saliency_snapshots_sha256_blobs"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("job_id", "step", name=op.f("pk_saliency_snapshots")),
    )
    op.create_index(op.f("ix_saliency_snapshots_sha256"), "saliency_snapshots", ["sha256"])


def _create_saliency_previews() -> None:
    op.create_table(
        "saliency_previews",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("adapter_id", sa.Text(), nullable=True),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("wanted_until", _TIME, nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("lease_expires_at", _TIME, nullable=True),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("error", postgresql.JSONB(), nullable=True),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("finished_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_saliency_previews_project_id_projects"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saliency_previews")),
    )
    op.create_index(
        "ix_saliency_previews_created_at",
        "saliency_previews",
        ["created_at"],
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_index("ix_saliency_previews_project_id", "saliency_previews", ["project_id"])
