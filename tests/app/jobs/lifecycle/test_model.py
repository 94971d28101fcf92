"""Random histories of one job, every step compared with a model that fits on a page."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from hypothesis.strategies import integers
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.core.errors import ConflictError
from app.db.models import Adapter, FileHold, JobAttempt, JobEvent
from app.db.models.fine_tuning_job import TERMINAL
from app.db.session import SessionFactory, transaction
from app.jobs import lifecycle
from app.jobs.attempts import AttemptRecord
from app.jobs.leases import Lease, LeaseLostError
from app.jobs.publication import JobResult
from tests.app.jobs.lifecycle.steps import BROKEN, DONE, LOST, POLICY, expire, read
from tests.worker.scripted_jobs import submit_job

any_lease = integers(min_value=0, max_value=3)


@dataclass
class Model:
    """What the job must look like."""

    status: str = "queued"
    attempt: int = 0
    lost: int = 0
    cancel: bool = False
    published: int = 0
    leases: list[Lease] = field(default_factory=list)

    def owns(self, lease: Lease) -> bool:
        return self.status == "running" and lease.attempt == self.attempt

    def lose(self) -> None:
        if self.cancel:
            self.status = "cancelled"
            return
        self.lost += 1
        self.status = "failed" if self.lost > POLICY.max_lost else "queued"


class Histories(RuleBasedStateMachine):
    factory: ClassVar[SessionFactory]
    project: ClassVar[str]
    result: ClassVar[JobResult]

    @initialize()
    def begin(self) -> None:
        self.model = Model()
        with transaction(self.factory) as own:
            self.job_id = submit_job(own, self.project)

    def write(self, number: int, change: Callable[[Session, Lease], object]) -> object:
        """Do what a present or past owner may try; return its answer, or None when it was fenced."""
        if not self.model.leases:
            return None
        lease = self.model.leases[-1 - number % len(self.model.leases)]
        try:
            with transaction(self.factory) as own:
                answer = change(own, lease)
        except LeaseLostError:
            assert not self.model.owns(lease)
            return None
        assert self.model.owns(lease)
        return answer

    @rule()
    def claim(self) -> None:
        with transaction(self.factory) as own:
            lease = lifecycle.claim(own, worker="model", lease_seconds=60, hint=self.job_id)
            if lease is not None and lease.job_id != self.job_id:
                own.rollback()
                lease = None
        assert (lease is not None) == (self.model.status == "queued")
        if lease is not None:
            self.model.status, self.model.attempt = "running", self.model.attempt + 1
            assert lease.attempt == self.model.attempt
            self.model.leases.append(lease)

    @rule(number=any_lease)
    def renew(self, number: int) -> None:
        answer = self.write(number, lambda own, lease: lifecycle.renew(own, lease, lease_seconds=60))
        assert answer in {None, self.model.cancel}

    @rule(number=any_lease)
    def publish(self, number: int) -> None:
        if (answer := self.write(number, lambda own, lease: lifecycle.succeed(own, lease, self.result, DONE))) is None:
            return
        assert answer is not self.model.cancel
        if answer:
            self.model.status, self.model.published = "succeeded", 1

    @rule(number=any_lease)
    def requeue(self, number: int) -> None:
        record = AttemptRecord("stopped")
        if self.write(number, lambda own, lease: lifecycle.requeue(own, lease, record)):
            self.model.status = "cancelled" if self.model.cancel else "queued"

    @rule(number=any_lease)
    def lose(self, number: int) -> None:
        if self.write(number, lambda own, lease: lifecycle.retry(own, lease, BROKEN, LOST, policy=POLICY)):
            self.model.lose()

    @rule()
    def reap(self) -> None:
        with transaction(self.factory) as own:
            if self.model.status == "running":
                expire(own, self.model.leases[-1])
            reaped = lifecycle.reap(own, policy=POLICY, lease_seconds=0)
        assert reaped == ([self.job_id] if self.model.status == "running" else [])
        if reaped:
            self.model.lose()

    @rule()
    def cancel(self) -> None:
        try:
            with transaction(self.factory) as own:
                lifecycle.request_cancel(own, self.project, self.job_id)
        except ConflictError:
            assert self.model.status in TERMINAL
            return
        assert self.model.status not in TERMINAL
        self.model.cancel = True
        self.model.status = "cancelled" if self.model.status == "queued" else "running"

    @invariant()
    def row_matches_model(self) -> None:
        with self.factory() as own:
            job = read(own, self.job_id)
            adapters = own.scalars(select(func.count()).where(Adapter.job_id == self.job_id)).one()
            holds = own.scalars(select(func.count()).where(FileHold.job_id == self.job_id)).one()
            attempts = own.scalars(select(func.count()).where(JobAttempt.job_id == self.job_id)).one()
            events = own.scalars(select(func.count()).where(JobEvent.job_id == self.job_id)).one()
        assert (job.status, job.attempt, job.lost_count) == (self.model.status, self.model.attempt, self.model.lost)
        assert (adapters, attempts) == (self.model.published, self.model.attempt)
        assert holds == (0 if self.model.status in TERMINAL else 1)
        assert events > attempts


def test_random_histories_follow_the_model(session_factory: SessionFactory, project: str, result: JobResult) -> None:
    bounded = settings(
        max_examples=25,
        stateful_step_count=14,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    Histories.factory, Histories.project, Histories.result = session_factory, project, result
    run_state_machine_as_test(Histories, settings=bounded)
