"""Why a job has the settings it has, what was predicted of it, and what happened."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COLUMNS = ("auto", "prediction", "outcome")


def upgrade() -> None:
    for column in _COLUMNS:
        op.add_column("fine_tuning_jobs", sa.Column(column, postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    for column in reversed(_COLUMNS):
        op.drop_column("fine_tuning_jobs", column)
