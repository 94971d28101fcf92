"""What a create looks up: the project's queued jobs, and what the newest finished jobs on a base model took."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_fine_tuning_jobs_queued", "fine_tuning_jobs", ["project_id"], postgresql_where=sa.text("status = 'queued'")
    )
    op.create_index(
        "ix_fine_tuning_jobs_outcome",
        "fine_tuning_jobs",
        ["base_model_id", "id"],
        postgresql_where=sa.text("status = 'succeeded' AND outcome IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_fine_tuning_jobs_outcome", "fine_tuning_jobs")
    op.drop_index("ix_fine_tuning_jobs_queued", "fine_tuning_jobs")
