"""How many devices a job wants."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("fine_tuning_jobs", sa.Column("n_gpus", sa.Integer(), server_default="1", nullable=False))


def downgrade() -> None:
    op.drop_column("fine_tuning_jobs", "n_gpus")
