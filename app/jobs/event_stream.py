"""Events of a job as they happen: server-sent events that the stock ``openai`` client reads.

Each is a ``data`` line with the object that the list has; ``[DONE]`` ends the stream of a job that has ended. There are
no ``id`` lines: with one, the clients take the blank line behind a keep-alive for an event without data.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec
from sqlalchemy import BIGINT, TEXT, Engine, bindparam, column, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import NotFoundError, RateLimitError, ServiceError, UnavailableError
from app.db.batching import BatchedReads
from app.db.models.fine_tuning_job import TERMINAL, FineTuningJob
from app.db.models.job_event import JobEvent
from app.db.notices import Notices
from app.jobs.wire import read_event

_CHANNEL = "job_events"  # a trigger announces the job of every event there
_KEEP_ALIVE_SECONDS = 15.0
_MOST_EVENTS = 100

_ASKED = (
    func.unnest(bindparam("job_ids", type_=ARRAY(TEXT)), bindparam("sequences", type_=ARRAY(BIGINT)))
    .table_valued(column("job_id", TEXT), column("sequence", BIGINT), name="asked")
    .render_derived()
)
_NEW = (
    select(JobEvent)
    .where(JobEvent.job_id == _ASKED.c.job_id, JobEvent.sequence > _ASKED.c.sequence)
    .order_by(JobEvent.sequence)
    .limit(_MOST_EVENTS)
    .lateral("new")
)
_NEWS = (
    select(_ASKED.c.job_id.label("asked_job"), _ASKED.c.sequence.label("asked_sequence"), FineTuningJob.status, _NEW)
    .join_from(_ASKED, FineTuningJob, FineTuningJob.id == _ASKED.c.job_id)
    .outerjoin(_NEW, true())
    .order_by(_ASKED.c.job_id, _ASKED.c.sequence, _NEW.c.sequence)
)

Place = tuple[str, int]
"""Id of a job, and the sequence number of the last event of it that was seen; 0: none."""
Check = Callable[[], Awaitable[object]]
"""Raises ServiceError once the caller may follow no longer."""


@dataclass(frozen=True, slots=True)
class _News:
    """What came behind a place: the events as they are sent, and the sequence number of the last.

    ``is_all`` says that there are no more by now, ``is_end`` that there will be none: the job has ended.
    """

    events: bytes
    last: int
    is_all: bool
    is_end: bool


class EventStreams:
    """The streams of one process. They share a connection that listens, and read in batches.

    Args:
        engine: Where the events are.
        most: How many streams are served at a time.
    """

    def __init__(self, engine: Engine, most: int) -> None:
        self._engine = engine
        self._most = most
        self._notices = Notices(engine, _CHANNEL)
        self._reads: BatchedReads[Place, _News] = BatchedReads(self._load)
        self._open: set[asyncio.Event] = set()
        self._is_ending = False

    def admit(self) -> None:
        """Raise RateLimitError when no further stream is served now."""
        if len(self._open) >= self._most:
            raise RateLimitError("Too many event streams are open; close one, or ask for the events now and then.")

    async def follow(self, place: Place, check: Check) -> AsyncIterator[bytes]:
        """Yield what is sent to one who follows a job from ``place`` on, oldest event first.

        The database is asked when an event was announced, and once a keep-alive for those whose announcement was lost.
        A failure ends the stream with its envelope, which the clients raise.
        """
        with self._notices.news_of(place[0]) as announced:
            self._open.add(announced)
            try:
                async for chunk in self._follow(place, check, announced):
                    yield chunk
            except ServiceError as error:
                yield _data(msgspec.json.encode(error.envelope()))
            finally:
                self._open.discard(announced)

    def end(self) -> None:
        """End every stream where it is, for the process stops; clients go on elsewhere behind their last event."""
        self._is_ending = True
        for announced in self._open:
            announced.set()

    def close(self) -> None:
        """Give the connection back and end the thread that reads."""
        self._notices.close()
        self._reads.close()

    async def _follow(self, place: Place, check: Check, announced: asyncio.Event) -> AsyncIterator[bytes]:
        while not self._is_ending:
            announced.clear()  # what is announced from here on may come too late for the reading
            news = await self._read(place, check)
            place = (place[0], news.last)
            if news.events:
                yield news.events
            if news.is_end:
                yield _data(b"[DONE]")
                return
            if news.is_all and not await _happens(announced, _KEEP_ALIVE_SECONDS):
                yield b": keep-alive\n\n"

    async def _read(self, place: Place, check: Check) -> _News:
        try:
            await check()
            news = await self._reads.get(place)
        except SQLAlchemyError as error:
            raise UnavailableError("The database is not available right now; try again shortly.") from error
        if news is None:
            raise NotFoundError(f"No fine-tuning job '{place[0]}' in this project.", param="fine_tuning_job_id")
        return news

    def _load(self, places: Sequence[Place]) -> Mapping[Place, _News]:
        asked = {"job_ids": [job_id for job_id, _ in places], "sequences": [sequence for _, sequence in places]}
        with self._engine.connect() as connection:
            rows = connection.execute(_NEWS, asked).all()
        found = {}
        for place, group in groupby(rows, key=lambda row: (row.asked_job, row.asked_sequence)):
            job, *_ = new = list(group)
            events = [row for row in new if row.id is not None]
            found[place] = _News(
                events=b"".join(_data(read_event(event).model_dump_json().encode()) for event in events),
                last=events[-1].sequence if events else place[1],
                is_all=len(events) < _MOST_EVENTS,
                is_end=len(events) < _MOST_EVENTS and job.status in TERMINAL,
            )
        return found


def _data(content: bytes) -> bytes:
    return b"data: %b\n\n" % content


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    """Return whether ``event`` is set within ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
