import stat
import time
from pathlib import Path

import pytest
import redis
from kombu.connection import Connection

from app.embedded.errors import InUseError
from app.embedded.valkey import EmbeddedValkey


@pytest.fixture
def server(tmp_path: Path) -> EmbeddedValkey:
    return EmbeddedValkey(tmp_path / "valkey")


def test_starts_quickly_without_a_port_and_never_evicts(server: EmbeddedValkey) -> None:
    began = time.monotonic()
    with server, redis.Redis.from_url(server.client_url, decode_responses=True) as client:
        assert time.monotonic() - began < 5
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_everything_is_closed_to_other_users(server: EmbeddedValkey) -> None:
    with server:
        sockets = Path(server.client_url.removeprefix("unix://"))
        folders = (server.directory, server.data, sockets.parent)
        assert [stat.S_IMODE(path.stat().st_mode) for path in folders] == [0o700] * 3
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700


def test_celery_transport_accepts_the_url(server: EmbeddedValkey) -> None:
    with server, Connection(server.url) as connection:  # type: ignore[no-untyped-call]  # kombu has no types
        queue = connection.SimpleQueue("probe")
        queue.put({"job": 1})
        assert queue.get(timeout=5).payload == {"job": 1}
        queue.close()


@pytest.mark.parametrize("ending", ["restart", "stop"])
def test_messages_survive_a_clean_stop(server: EmbeddedValkey, ending: str) -> None:
    with server:
        with redis.Redis.from_url(server.client_url) as client:
            client.set("kept", "7")
        getattr(server, ending)()
        server.start()
        with redis.Redis.from_url(server.client_url) as client:
            assert client.get("kept") == b"7"


def test_starts_again_after_kill(server: EmbeddedValkey) -> None:
    with server:
        server.kill()
        assert not server.is_running()
        server.start()
        with redis.Redis.from_url(server.client_url) as client:
            assert client.ping()


def test_second_start_is_refused(server: EmbeddedValkey) -> None:
    with server, pytest.raises(InUseError):
        EmbeddedValkey(server.directory).start()
