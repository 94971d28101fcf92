"""Whoever follows a job hears of its events: each insert announces the job's id on the channel ``job_events``."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_FUNCTION = """
CREATE FUNCTION announce_job_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('job_events', NEW.job_id);
    RETURN NULL;
END
$$
"""
_TRIGGER = """
CREATE TRIGGER job_events_are_announced AFTER INSERT ON job_events FOR EACH ROW EXECUTE FUNCTION announce_job_event()
"""


def upgrade() -> None:
    op.execute(_FUNCTION)
    op.execute(_TRIGGER)


def downgrade() -> None:
    op.execute("DROP TRIGGER job_events_are_announced ON job_events")
    op.execute("DROP FUNCTION announce_job_event()")
