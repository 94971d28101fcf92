"""What was asked before and what a job has spent, kept in the database: no question of a project is paid for twice."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import msgspec
from sqlalchemy import delete, func, literal, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.completions.asking import Answer
from app.completions.configuration import Target
from app.db.models import CompletionAnswer, CompletionSpending
from app.db.session import SessionFactory, transaction
from worker.training.events import CompletionRequest

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Spending:
    """HTTP requests sent, tokens charged, and questions answered from store."""

    requests: int = 0
    tokens: int = 0
    stored_answers: int = 0


class Ledger(Protocol):
    """Where answers and spending are kept. Called from threads, several at a time."""

    def spent(self, endpoint: str) -> Spending:
        """Return what has been spent at ``endpoint`` so far."""
        ...

    def recall(self, key: str, endpoint: str) -> Answer | None:
        """Return the stored answer to the question ``key``, and note that it was used."""
        ...

    def settle(self, key: str, endpoint: str, requests: int, answer: Answer | None) -> None:
        """Charge ``requests``, and the tokens of ``answer``, which is stored unless it is empty."""
        ...


class JobLedger:
    """The ledger of one job; its answers are shared by all jobs of the project."""

    def __init__(self, factory: SessionFactory, project_id: str, job_id: str) -> None:
        self._factory = factory
        self._project_id = project_id
        self._job_id = job_id

    def spent(self, endpoint: str) -> Spending:
        """Return what the job has spent at ``endpoint``, earlier attempts included."""
        with transaction(self._factory) as session:
            row = session.get(CompletionSpending, (self._job_id, endpoint))
            return Spending() if row is None else Spending(row.requests, row.tokens, row.stored_answers)

    def recall(self, key: str, endpoint: str) -> Answer | None:
        """Return the project's stored answer to the question ``key``."""
        with transaction(self._factory) as session:
            found = (
                update(CompletionAnswer)
                .where(CompletionAnswer.project_id == self._project_id, CompletionAnswer.key == key)
                .values(last_used_at=func.now())
                .returning(CompletionAnswer.text, CompletionAnswer.tokens)
            )
            row = session.execute(found).one_or_none()
            if row is None:
                return None
            self._charge(session, endpoint, Spending(stored_answers=1))
            return Answer(row.text, row.tokens)

    def settle(self, key: str, endpoint: str, requests: int, answer: Answer | None) -> None:
        """Charge the job, and store the answer for the project unless it is empty."""
        with transaction(self._factory) as session:
            self._charge(session, endpoint, Spending(requests, answer.tokens if answer else 0))
            if answer is not None and answer.text.strip():
                row = insert(CompletionAnswer).values(
                    project_id=self._project_id, key=key, text=answer.text, tokens=answer.tokens
                )
                session.execute(row.on_conflict_do_nothing())

    def _charge(self, session: Session, endpoint: str, spending: Spending) -> None:
        table = CompletionSpending
        row = insert(table).values(
            job_id=self._job_id,
            endpoint=endpoint,
            requests=spending.requests,
            tokens=spending.tokens,
            stored_answers=spending.stored_answers,
        )
        sums = {
            "requests": table.requests + spending.requests,
            "tokens": table.tokens + spending.tokens,
            "stored_answers": table.stored_answers + spending.stored_answers,
        }
        session.execute(row.on_conflict_do_update(index_elements=[table.job_id, table.endpoint], set_=sums))


def question_key(target: Target, request: CompletionRequest) -> str:
    """Return the sha256 of everything that an answer depends on; the endpoint's name and key are no part of it."""
    sampling = {name: value for name, value in request.sampling.items() if value is not None}
    content = [target.endpoint.base_url.rstrip("/"), target.model, request.messages, sampling]
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def list_spending(session: Session, job_id: str) -> dict[str, Spending]:
    """Return what a job has spent, by endpoint."""
    rows = session.scalars(
        select(CompletionSpending).where(CompletionSpending.job_id == job_id).order_by(CompletionSpending.endpoint)
    )
    return {row.endpoint: Spending(row.requests, row.tokens, row.stored_answers) for row in rows}


def drop_unused(session: Session, *, seconds: float) -> int:
    """Forget up to a thousand answers that nobody used for ``seconds``; return how many."""
    places = (CompletionAnswer.project_id, CompletionAnswer.key)
    age = CompletionAnswer.last_used_at < func.now() - literal(timedelta(seconds=seconds))
    chosen = select(*places).where(age).limit(_BATCH).with_for_update(skip_locked=True)
    gone = delete(CompletionAnswer).where(tuple_(*places).in_(chosen)).returning(CompletionAnswer.key)
    return len(session.execute(gone).all())
