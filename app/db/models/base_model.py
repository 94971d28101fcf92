"""A base model that an operator has allowed."""

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, Json, PrimaryId


class BaseModel(Base):
    """Allow-list row: a local Hugging Face folder, named by ``id``, pinned by ``digest``.

    ``digest`` is the sha256 over the sorted ``name:sha256`` lines of the weight, config and tokenizer files.
    """

    __tablename__ = "base_models"

    id: Mapped[PrimaryId]
    path: Mapped[str]
    digest: Mapped[str]
    architecture: Mapped[str]
    parameters: Mapped[int] = mapped_column(BigInteger)
    context_length: Mapped[int]
    details: Mapped[Json]
    created_at: Mapped[CreatedAt]
