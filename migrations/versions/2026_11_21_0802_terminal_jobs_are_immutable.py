"""A finished job's outcome cannot be changed, whatever code tries to."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_FUNCTION = """
CREATE FUNCTION refuse_change_of_finished_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'job % is %: a finished job does not change', OLD.id, OLD.status
        USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'finished_jobs_are_immutable';
END
$$
"""

_OUTCOME = "status, attempt, fine_tuned_model, result_files, trained_tokens, error_code, error_message, finished_at"
_TRIGGER = """
CREATE TRIGGER finished_jobs_are_immutable BEFORE UPDATE ON fine_tuning_jobs FOR EACH ROW
WHEN (OLD.status IN ('succeeded', 'failed', 'cancelled') AND ({old}) IS DISTINCT FROM ({new}))
EXECUTE FUNCTION refuse_change_of_finished_job()
"""


def upgrade() -> None:
    columns = _OUTCOME.split(", ")
    op.execute(_FUNCTION)
    op.execute(
        _TRIGGER.format(
            old=", ".join(f"OLD.{column}" for column in columns), new=", ".join(f"NEW.{column}" for column in columns)
        )
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER finished_jobs_are_immutable ON fine_tuning_jobs")
    op.execute("DROP FUNCTION refuse_change_of_finished_job()")
