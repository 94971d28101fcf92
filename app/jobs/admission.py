"""Transactions that create jobs: of one call, or of several that arrived together."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.completions.configuration import Endpoints
from app.core.errors import RateLimitError, ServiceError
from app.core.settings import Settings
from app.db.models.fine_tuning_job import FineTuningJob
from app.jobs import deduplication, lifecycle, repository
from app.jobs.creation import CreateCall, NewJob, build_job
from app.jobs.inputs import NamedRows
from app.jobs.prediction import find_pace, recall_prediction
from app.storage import BlobStore

Admitted = FineTuningJob | ServiceError | None
"""What a call led to: a job, a refusal, or None when it has to be admitted by itself."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What create calls are held against."""

    store: BlobStore
    endpoints: Endpoints
    settings: Settings

    def admit(self, session: Session, call: CreateCall) -> FineTuningJob:
        """Return the job that ``call`` asks for: a new one, or the one that an earlier arrival has made.

        The caller commits.

        Raises:
            InvalidRequestError: A file, the base model or a setting is unfit; ``param`` names it.
            NotFoundError: There is no such base model.
            ConflictError: The idempotency key was used with another body.
            RateLimitError: The project has as many queued jobs as the settings allow.
        """
        repository.lock_creation(session, [call.attempt.project_id])
        job = deduplication.find_first_job(session, call.attempt)
        if job is not None:
            return job
        [admitted] = self._add(session, [call])
        if isinstance(admitted, ServiceError):
            raise admitted
        return admitted

    def admit_together(self, session: Session, calls: Sequence[CreateCall]) -> list[Admitted]:
        """Return what each call leads to, as ``admit`` would one after the other; the caller commits.

        A call that may be the repetition of another is left over: only one that is alone may find its twin's job.
        """
        repository.lock_creation(session, {call.attempt.project_id for call in calls})
        repeated = deduplication.find_repeated(session, [call.attempt for call in calls])
        places = [place for place in range(len(calls)) if place not in repeated]
        admitted: list[Admitted] = [None] * len(calls)
        for place, outcome in zip(places, self._add(session, [calls[place] for place in places]), strict=True):
            admitted[place] = outcome
        return admitted

    def _add(self, session: Session, calls: Sequence[CreateCall]) -> list[FineTuningJob | ServiceError]:
        rows = NamedRows(session, [(call.attempt.project_id, call.body) for call in calls])
        built = [self._build(rows, call) for call in calls]
        most = self.settings.max_queued_jobs
        queued = repository.count_queued(session, {call.attempt.project_id for call in calls}, most=most)
        new = []
        for place, one in enumerate(built):
            if isinstance(one, ServiceError):
                continue
            project_id = one.job.project_id
            if queued[project_id] >= most:
                built[place] = RateLimitError(
                    f"This project already has {most} queued jobs; wait for one to start or cancel one."
                )
                continue
            queued[project_id] += 1
            new.append((calls[place], one))
        self._store(session, new)
        return [one if isinstance(one, ServiceError) else one.job for one in built]

    def _build(self, rows: NamedRows, call: CreateCall) -> NewJob | ServiceError:
        try:
            return build_job(rows, call, self.endpoints, most_gpus=self.settings.most_gpus)
        except ServiceError as refusal:
            return refusal

    def _store(self, session: Session, new: Sequence[tuple[CreateCall, NewJob]]) -> None:
        base_models = {one.inputs.base_model.id: one.inputs.base_model for _, one in new}
        paces = {name: find_pace(session, base_model) for name, base_model in base_models.items()}
        for _, one in new:
            one.job.prediction = recall_prediction(self.store, one, paces[one.job.base_model_id])
        lifecycle.submit(session, [one.job for _, one in new])
        for call, one in new:
            deduplication.remember(session, call.attempt, one.job)
        session.flush()
