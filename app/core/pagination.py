"""Keyset pages in the OpenAI list shape: ``after`` is the id of the last item seen, exclusive.

Ids sort by creation time, so a page needs no offset, and stays right while rows are added or deleted.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.core.schemas import Schema

T = TypeVar("T")
AfterId = Annotated[str | None, Field(description="Id of the last item of the page before.", max_length=200)]


class PageQuery(Schema):
    """Query parameters of a list. A route with another default or ceiling subclasses this."""

    after: AfterId = None
    limit: int = Field(20, ge=1, le=100, description="Most items to return.")


class Page(Schema, Generic[T]):
    """One page; ask for the next with ``after=last_id`` while ``has_more``."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def build_page(items: list[T], *, limit: int) -> Page[T]:
    """Return the page of the first ``limit`` of ``items``, which were fetched with one row beyond it.

    Each item has a string ``id``.
    """
    shown = items[:limit]
    ids = [str(item.id) for item in shown]  # type: ignore[attr-defined]  # every wire object of a list has an id
    return Page[T](
        data=shown,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=len(items) > limit,
    )


def build_document(items: list[dict[str, Any]], *, limit: int) -> dict[str, Any]:
    """Return the same page of items that are JSON-compatible already."""
    shown = items[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > limit,
    }


def fetch_after(
    session: Session,
    statement: Select[T],
    key: InstrumentedAttribute[Any],
    query: PageQuery,
    *,
    descending: bool = True,
) -> list[T]:
    """Return up to ``query.limit`` + 1 rows of ``statement`` behind ``query.after`` in the order of ``key``."""
    if query.after is not None:
        statement = statement.where(key < query.after if descending else key > query.after)
    ordered = statement.order_by(key.desc() if descending else key.asc())
    return list(session.scalars(ordered.limit(query.limit + 1)))
