"""The embedded services as one unit: what the operator's environment does not name is started here."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.embedded.directories import ensure_ours, ensure_private
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.providers import find_postgres, find_valkey
from app.embedded.valkey import EmbeddedValkey

_SWITCHES = ("DATABASE_URL", "BROKER_URL", "STORAGE_URL")

Server = EmbeddedPostgres | EmbeddedValkey


@dataclass(frozen=True)
class EmbeddedServices:
    """What runs, and under which variables the rest of the service finds it.

    Args:
        environment: DATABASE_URL, BROKER_URL and STORAGE_URL; those given from outside are passed on as they are.
        servers: The embedded servers by name, to be watched.
    """

    environment: dict[str, str]
    servers: dict[str, Server] = field(default_factory=dict)


@contextmanager
def embedded_services(
    state_dir: Path, given: Mapping[str, str], *, postgres_bin: Path | None = None, valkey_bin: Path | None = None
) -> Iterator[EmbeddedServices]:
    """Start PostgreSQL, Valkey and local storage below ``state_dir``, and stop the servers at the end of the block.

    Args:
        state_dir: Holds one closed folder for each.
        given: The operator's environment; DATABASE_URL, BROKER_URL and STORAGE_URL in it each switch their part off.
        postgres_bin: Folder of the PostgreSQL programs; None takes the first provider.
        valkey_bin: Valkey or Redis server program; None takes the first provider.

    Raises:
        EmbeddedServerError: A server cannot be found or started; the message names the remedy.
    """
    ensure_ours(state_dir)
    services = EmbeddedServices({name: url for name, url in given.items() if name in _SWITCHES and url})
    environment, servers = services.environment, services.servers
    with ExitStack() as running:
        if "DATABASE_URL" not in environment:
            postgres = EmbeddedPostgres(state_dir / "postgres", binaries=find_postgres(postgres_bin))
            servers["postgres"] = running.enter_context(postgres)
            environment["DATABASE_URL"] = postgres.url
        if "BROKER_URL" not in environment:
            valkey = EmbeddedValkey(state_dir / "valkey", program=find_valkey(valkey_bin))
            servers["valkey"] = running.enter_context(valkey)
            environment["BROKER_URL"] = valkey.url
        if "STORAGE_URL" not in environment:
            environment["STORAGE_URL"] = ensure_private(state_dir / "storage").as_uri()
        yield services
