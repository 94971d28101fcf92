"""What the event loop asks of a real PostgreSQL without a thread."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, QueuePool, make_url, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.settings import Settings
from app.db import lookups
from app.db.lookups import Lookups
from app.db.session import build_engine

DOUBLED = "SELECT key, key || key FROM unnest(string_to_array($1, ',')) AS key WHERE key <> 'nothing'"
SLOW = "SELECT key, key FROM unnest(string_to_array($1, ',')) AS key, pg_sleep(CASE key WHEN 'slow' THEN 30 ELSE 0 END)"
COUNTED = "SELECT key, array_length(keys, 1)::text FROM string_to_array($1, ',') AS keys, unnest(keys) AS key"
KILL = text(
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE query LIKE :like AND pid <> pg_backend_pid()"
)


@asynccontextmanager
async def opened(engine: Engine, statement: str) -> AsyncIterator[Lookups]:
    found = Lookups(engine, statement)
    found.open()
    try:
        yield found
    finally:
        found.close()


def run(engine: Engine, statement: str, ask: Callable[[Lookups], Awaitable[None]]) -> None:
    async def main() -> None:
        async with opened(engine, statement) as found:
            await ask(found)

    before = checked_out(engine)
    asyncio.run(main())
    assert checked_out(engine) == before


def checked_out(engine: Engine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


def kill(engine: Engine, statement: str) -> None:
    """End the connections that ran ``statement`` last."""
    with engine.connect() as connection:
        assert connection.execute(KILL, {"like": f"%{statement}%"}).all()


def test_each_question_gets_the_value_of_its_key(engine: Engine) -> None:
    async def ask(found: Lookups) -> None:
        answers = await asyncio.gather(*map(found.get, ("ä", "b", "nothing", "b")))
        assert answers == ["ää".encode(), b"bb", None, b"bb"]

    run(engine, DOUBLED, ask)


def test_questions_of_one_moment_share_a_statement_of_bounded_size(engine: Engine) -> None:
    async def ask(found: Lookups) -> None:
        assert await asyncio.gather(*(found.get(f"{key}" * 10_000) for key in range(8))) == [b"8"] * 8
        counts = await asyncio.gather(*(found.get(str(key)) for key in range(250)))
        assert set(counts) == {b"100", b"50"}

    run(engine, COUNTED, ask)


def test_a_question_sees_what_was_committed_before_it(engine: Engine) -> None:
    statement = "SELECT key, obj_description(key::regnamespace) FROM unnest(string_to_array($1, ',')) AS key"

    async def ask(found: Lookups) -> None:
        for number in range(3):
            with engine.begin() as connection:
                connection.execute(text(f"COMMENT ON SCHEMA public IS '{number}'"))
            assert await found.get("public") == b"%d" % number

    run(engine, statement, ask)


def test_one_connection_is_kept(engine: Engine) -> None:
    statement = "SELECT key, pg_backend_pid()::text FROM unnest(string_to_array($1, ',')) AS key"

    async def ask(found: Lookups) -> None:
        before = checked_out(engine)
        assert len({await found.get("a") for _ in range(5)}) == 1
        assert checked_out(engine) == before + 1

    run(engine, statement, ask)


def test_a_connection_that_ended_while_nobody_asked_is_replaced_unnoticed(engine: Engine) -> None:
    async def ask(found: Lookups) -> None:
        assert await found.get("a") == b"aa"
        kill(engine, DOUBLED)
        await asyncio.sleep(0)  # the loop looks at the socket
        assert await found.get("b") == b"bb"

    run(engine, DOUBLED, ask)


def test_a_connection_that_ends_under_a_question_fails_it_and_no_later_one(engine: Engine) -> None:
    async def ask(found: Lookups) -> None:
        await found.get("a")
        slow = asyncio.ensure_future(found.get("slow"))
        await asyncio.sleep(0.1)
        later = asyncio.ensure_future(found.get("later"))
        await asyncio.to_thread(kill, engine, SLOW)
        with pytest.raises(psycopg.OperationalError):
            await slow
        assert await later == b"later"

    run(engine, SLOW, ask)


def test_patience_ends(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "_PATIENCE_SECONDS", 0.2)

    async def ask(found: Lookups) -> None:
        with pytest.raises(psycopg.OperationalError, match="no answer in time"):
            await found.get("slow")
        assert await found.get("a") == b"a"

    run(engine, SLOW, ask)


def test_closing_fails_the_question_that_is_under_way(engine: Engine) -> None:
    async def ask(found: Lookups) -> None:
        await found.get("a")
        slow = asyncio.ensure_future(found.get("slow"))
        await asyncio.sleep(0.1)
        found.close()
        with pytest.raises(psycopg.OperationalError, match="closed"):
            await slow

    run(engine, SLOW, ask)


def test_closing_while_the_first_question_connects_leaves_no_connection_behind(engine: Engine) -> None:
    async def ask(found: Lookups) -> None:
        first = asyncio.ensure_future(found.get("a"))
        await asyncio.sleep(0)
        found.close()
        with pytest.raises(psycopg.OperationalError):
            await first

    run(engine, DOUBLED, ask)


def test_what_the_database_refuses_is_an_error_and_the_next_question_is_not(engine: Engine) -> None:
    statement = "SELECT key, (1 / key::int)::text FROM unnest(string_to_array($1, ',')) AS key"

    async def ask(found: Lookups) -> None:
        with pytest.raises(psycopg.OperationalError, match="division by zero"):
            await found.get("0")
        assert await found.get("1") == b"1"

    run(engine, statement, ask)


def test_a_statement_that_cannot_be_prepared_takes_no_connection_away(engine: Engine) -> None:
    async def ask(found: Lookups) -> None:
        for _ in range(3):
            with pytest.raises(psycopg.OperationalError, match="no_such_table"):
                await found.get("a")

    run(engine, "SELECT $1, x FROM no_such_table", ask)


def test_a_pool_without_a_free_connection_is_an_error(database_url: str) -> None:
    one = build_engine(Settings(DATABASE_URL=SecretStr(database_url), database_pool_size=1))

    async def ask(found: Lookups) -> None:
        with one.connect(), pytest.raises(PoolTimeoutError):
            await found.get("a")
        assert await found.get("a") == b"aa"

    run(one, DOUBLED, ask)
    one.dispose()


def test_a_server_that_is_away_is_an_error(database_url: str) -> None:
    away = make_url(database_url).update_query_dict({"port": "1"}).render_as_string(hide_password=False)
    engine = build_engine(Settings(DATABASE_URL=SecretStr(away)))

    async def ask(found: Lookups) -> None:
        with pytest.raises(Exception, match=r"(?i)connection"):
            await found.get("a")

    run(engine, DOUBLED, ask)


def test_another_event_loop_is_not_served(engine: Engine) -> None:
    found = Lookups(engine, DOUBLED)

    async def is_open() -> bool:
        return found.is_open

    async def open_here() -> bool:
        found.open()
        return found.is_open

    assert not asyncio.run(is_open())
    assert asyncio.run(open_here())
    assert not asyncio.run(is_open())
