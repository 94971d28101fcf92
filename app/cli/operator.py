"""A database session for operator commands, and their errors as sentences."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from app.cli.output import CommandError
from app.cli.state import operator_settings
from app.core.errors import ServiceError
from app.core.settings import Settings
from app.db.session import build_engine, build_session_factory


@dataclass(frozen=True)
class Operator:
    """An open session and the settings it was opened with."""

    session: Session
    settings: Settings


@contextmanager
def operating(state_dir: Path | None) -> Iterator[Operator]:
    """Yield a session on the service's database.

    Raises:
        CommandError: The database cannot be reached, is not migrated, or the service refuses; says which.
    """
    settings = operator_settings(state_dir)
    engine = build_engine(settings)
    try:
        with build_session_factory(engine)() as session:
            yield Operator(session, settings)
    except ServiceError as error:
        raise CommandError(error.message) from error
    except OperationalError as error:
        raise CommandError(f"The database does not answer: {error.orig}") from error
    except ProgrammingError as error:
        raise CommandError(f"The database is not migrated ({error.orig}). Run `nlft migrate`.") from error
    finally:
        engine.dispose()
