"""What a model behind an endpoint answered, and what a job has spent on such answers."""

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt


class CompletionAnswer(Base):
    """An answer that was paid for. ``key`` is a digest of the question: address, model, messages and sampling."""

    __tablename__ = "completion_answers"
    __table_args__ = (Index("ix_completion_answers_last_used_at", "last_used_at"),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="RESTRICT"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]
    tokens: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[CreatedAt]
    last_used_at: Mapped[CreatedAt]


class CompletionSpending(Base):
    """Requests that a job has sent to an endpoint, the tokens it was charged, the questions answered from store."""

    __tablename__ = "completion_spending"

    job_id: Mapped[str] = mapped_column(ForeignKey("fine_tuning_jobs.id", ondelete="CASCADE"), primary_key=True)
    endpoint: Mapped[str] = mapped_column(primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger, server_default="0")
    tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    stored_answers: Mapped[int] = mapped_column(BigInteger, server_default="0")
