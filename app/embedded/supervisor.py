"""The embedded services as one unit: what the operator's environment does not name is started here."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.core.settings import Settings
from app.embedded.directories import ensure_private
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.providers import find_postgres, find_valkey
from app.embedded.valkey import EmbeddedValkey

Server = EmbeddedPostgres | EmbeddedValkey


@dataclass(frozen=True)
class EmbeddedServices:
    """What runs, and under which variables the rest of the service finds it.

    Args:
        environment: DATABASE_URL, BROKER_URL and STORAGE_URL; those given from outside are passed on as they are.
        servers: The embedded servers by name, to be watched.
    """

    environment: dict[str, str]
    servers: dict[str, Server]


@contextmanager
def embedded_services(settings: Settings, state_dir: Path) -> Iterator[EmbeddedServices]:
    """Start PostgreSQL, Valkey and local storage below ``state_dir``, each only when its variable is not set."""
    ensure_private(state_dir)
    given = settings.model_fields_set
    environment = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "BROKER_URL": settings.broker_url.get_secret_value(),
        "STORAGE_URL": settings.storage_url,
    }
    servers: dict[str, Server] = {}
    with ExitStack() as running:
        if "database_url" not in given:
            postgres = EmbeddedPostgres(state_dir / "postgres", binaries=find_postgres(settings.postgres_bin))
            servers["postgres"] = running.enter_context(postgres)
            environment["DATABASE_URL"] = postgres.url
        if "broker_url" not in given:
            valkey = EmbeddedValkey(state_dir / "valkey", program=find_valkey(settings.valkey_bin))
            servers["valkey"] = running.enter_context(valkey)
            environment["BROKER_URL"] = valkey.url
        if "storage_url" not in given:
            environment["STORAGE_URL"] = ensure_private(state_dir / "storage").as_uri()
        yield EmbeddedServices(environment, servers)
