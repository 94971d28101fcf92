"""Results of building stages, answers of endpoints, and the files built from raw rows."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_NOW = sa.text("now()")
_TIME = sa.DateTime(timezone=True)
_OUTCOME = ("status", "attempt", "fine_tuned_model", "result_files", "trained_tokens", "error_code", "error_message")
_OLD_OUTCOME = (*_OUTCOME, "finished_at")
_NEW_OUTCOME = (*_OLD_OUTCOME, "built_file_id")


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("built_file_id", sa.Text(), nullable=True))
    _guard(_NEW_OUTCOME)
    _create_stage_parts()
    _create_completion_answers()
    _create_completion_spending()


def downgrade() -> None:
    op.drop_table("completion_spending")
    op.drop_table("completion_answers")
    op.drop_table("stage_parts")
    _guard(_OLD_OUTCOME)
    op.drop_column("fine_tuning_jobs", "built_file_id")


def _guard(columns: tuple[str, ...]) -> None:
    """Make the trigger of revision 0003 watch these columns."""
    old, new = (", ".join(f"{row}.{column}" for column in columns) for row in ("OLD", "NEW"))
    op.execute("DROP TRIGGER finished_jobs_are_immutable ON fine_tuning_jobs")
    op.execute(
        "CREATE TRIGGER finished_jobs_are_immutable BEFORE UPDATE ON fine_tuning_jobs FOR EACH ROW "
        f"WHEN (OLD.status IN ('succeeded', 'failed', 'cancelled') AND ({old}) IS DISTINCT FROM ({new})) "
        "EXECUTE FUNCTION refuse_change_of_finished_job()"
    )


def _create_stage_parts() -> None:
    op.create_table(
        "stage_parts",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("last_used_at", _TIME, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_stage_parts_project_id_projects"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["sha256"], ["blobs.sha256"], name=op.f("fk_stage_parts_sha256_blobs"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("project_id", "stage", "key", "part", name=op.f("pk_stage_parts")),
    )
    op.create_index(op.f("ix_stage_parts_sha256"), "stage_parts", ["sha256"])
    op.create_index("ix_stage_parts_last_used_at", "stage_parts", ["last_used_at"])


def _create_completion_answers() -> None:
    op.create_table(
        "completion_answers",
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _TIME, server_default=_NOW, nullable=False),
        sa.Column("last_used_at", _TIME, server_default=_NOW, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_completion_answers_project_id_projects"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("project_id", "key", name=op.f("pk_completion_answers")),
    )
    op.create_index("ix_completion_answers_last_used_at", "completion_answers", ["last_used_at"])


def _create_completion_spending() -> None:
    op.create_table(
        "completion_spending",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("stored_answers", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["fine_tuning_jobs.id"],
            name=op.f("fk_completion_spending_job_id_fine_tuning_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("job_id", "endpoint", name=op.f("pk_completion_spending")),
    )
