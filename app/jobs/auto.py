"""What "auto" became: in the words of the job's history, and on the job."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.db.base import Json
from app.jobs import leases
from app.jobs.leases import Lease
from worker.training.methods.auto import AUTO, Choice

_UNKNOWN = "follows from the rows; chosen once they are built"


def note_choices(choices: Mapping[str, Choice], *, rows_are_final: bool) -> Json:
    """Return value and reason of every choice; what depends on rows that are yet to be built stays "auto"."""
    return {
        name: {"value": AUTO, "reason": _UNKNOWN} if choice.from_rows and not rows_are_final else choice.to_json()
        for name, choice in choices.items()
    }


def tell_choices(auto: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a sentence that names every value with its reason."""
    told = "; ".join(f"{name} {choice['value']} ({choice['reason']})" for name, choice in auto.items())
    return f"Settings chosen: {told}." if told else "Every setting is the job's own."


def adopt_settings(session: Session, lease: Lease, hyperparameters: Json, auto: Json) -> None:
    """Show on the leased job what its attempt has resolved; the caller commits.

    Raises:
        LeaseLostError: The job is no longer this attempt's.
    """
    job = leases.lock(session, lease)
    name = job.method["type"]
    job.method = {**job.method, name: {**job.method.get(name, {}), "hyperparameters": hyperparameters}}
    job.auto = {**(job.auto or {}), **auto}
    session.flush()
