import asyncio
import threading
from collections.abc import Mapping, Sequence

import pytest

from app.db.batching import BatchedReads


class Source:
    """Doubles even numbers, knows no odd ones, and holds its answers back until it is told to give them."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def load(self, keys: Sequence[int]) -> Mapping[int, int]:
        self.batches.append(list(keys))
        assert self.gate.wait(20)
        if 666 in keys:
            raise ConnectionError("gone")
        return {key: 2 * key for key in keys if key % 2 == 0}


@pytest.fixture
def source() -> Source:
    return Source()


def gather(source: Source, *keys: int) -> list[int | None]:
    reads = BatchedReads(source.load)

    async def ask() -> list[int | None]:
        return await asyncio.gather(*(reads.get(key) for key in keys))

    try:
        return asyncio.run(ask())
    finally:
        reads.close()


def test_what_is_asked_together_is_loaded_together_and_answered_apart(source: Source) -> None:
    assert gather(source, 2, 3, 4) == [4, None, 8]
    assert source.batches == [[2, 3, 4]]


def test_a_key_asked_twice_is_loaded_once(source: Source) -> None:
    assert gather(source, 2, 2) == [4, 4]
    assert source.batches == [[2]]


def test_a_batch_has_an_upper_end(source: Source) -> None:
    assert gather(source, *range(0, 500, 2)) == list(range(0, 1000, 4))
    assert max(map(len, source.batches)) <= 100


def test_a_failure_reaches_everybody_of_the_batch_and_nobody_after(source: Source) -> None:
    reads = BatchedReads(source.load)

    async def ask() -> list[int | BaseException | None]:
        failed = await asyncio.gather(reads.get(666), reads.get(2), return_exceptions=True)
        return [*failed, await reads.get(4)]

    first, second, third = asyncio.run(ask())
    reads.close()
    assert isinstance(first, ConnectionError)
    assert isinstance(second, ConnectionError)
    assert third == 8


def test_a_late_question_is_not_answered_by_an_earlier_statement(source: Source) -> None:
    reads = BatchedReads(source.load)

    async def ask() -> None:
        source.gate.clear()
        early = [asyncio.ensure_future(reads.get(key)) for key in (2,)]
        while not source.batches:
            await asyncio.sleep(0)
        late = asyncio.ensure_future(reads.get(2))
        await asyncio.sleep(0)
        source.gate.set()
        await asyncio.gather(*early, late)

    asyncio.run(ask())
    reads.close()
    assert source.batches == [[2], [2]]


def test_whoever_goes_away_does_not_hold_the_others_up(source: Source) -> None:
    reads = BatchedReads(source.load)

    async def ask() -> int | None:
        source.gate.clear()
        gone, kept = (asyncio.ensure_future(reads.get(key)) for key in (2, 4))
        while not source.batches:
            await asyncio.sleep(0)
        gone.cancel()
        source.gate.set()
        return await kept

    assert asyncio.run(ask()) == 8
    reads.close()


def test_several_event_loops_may_ask(source: Source) -> None:
    reads = BatchedReads(source.load)

    async def ask() -> int | None:
        return await reads.get(2)

    assert [asyncio.run(ask()) for _ in range(3)] == [4, 4, 4]
    reads.close()
