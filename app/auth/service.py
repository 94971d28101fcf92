"""Turns a presented key into the caller it stands for, with a short-lived cache of good answers."""

import hmac
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from threading import Lock

from sqlalchemy import func, or_, select, update

from app.auth.key_format import hash_secret, parse_key
from app.auth.scopes import Scope
from app.core.errors import AuthenticationError
from app.db.models import ApiKey
from app.db.session import SessionFactory, transaction

_CACHED_KEYS = 10_000
_LAST_USED_STEP = timedelta(minutes=5)
_REFUSAL = "Incorrect API key provided. It is unknown, expired or revoked."


@dataclass(frozen=True, slots=True)
class AuthenticatedKey:
    """The caller: which key, which project, and what it may do."""

    id: str
    project_id: str
    scopes: frozenset[str]

    def allows(self, scope: Scope) -> bool:
        """Return whether the key carries ``scope``."""
        return scope in self.scopes


class KeyVerifier:
    """Checks keys against the database.

    Args:
        factory: Sessions to look keys up with.
        pepper: The operator's secret that is mixed into the stored hashes.
        cache_seconds: How long a good key is believed without asking again, so also how long a revoked one may live.

    Raises:
        ValueError: The pepper is empty.
    """

    def __init__(self, factory: SessionFactory, pepper: str, cache_seconds: float) -> None:
        if not pepper:
            raise ValueError(
                "NLFT_API_KEY_PEPPER is not set. It protects stored API keys: set it to a long random secret, "
                "for example the output of `openssl rand -hex 32`, and keep it the same from then on."
            )
        self._factory = factory
        self._pepper = pepper
        self._cache_seconds = cache_seconds
        self._cache: OrderedDict[bytes, tuple[float, AuthenticatedKey]] = OrderedDict()
        self._lock = Lock()

    def cached(self, text: str) -> AuthenticatedKey | None:
        """Return the caller behind ``text`` if the key was verified a moment ago. Never blocks on the network."""
        name = sha256(text.encode()).digest()
        with self._lock:
            deadline, key = self._cache.get(name, (0.0, None))
            return key if time.monotonic() < deadline else None

    def verify(self, text: str) -> AuthenticatedKey:
        """Return the caller behind ``text``, from the database.

        Raises:
            AuthenticationError: The key is malformed, unknown, expired or revoked; which of these is not told.
        """
        presented = parse_key(text)
        if presented is None:
            raise AuthenticationError(_REFUSAL)
        with transaction(self._factory) as session:
            row = session.execute(
                select(ApiKey.id, ApiKey.project_id, ApiKey.scopes, ApiKey.secret_hash, ApiKey.expires_at).where(
                    ApiKey.public_id == presented.public_id,
                    ApiKey.revoked_at.is_(None),
                    or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
                )
            ).one_or_none()
            # Hashed even when the id is unknown, so that timing does not tell which ids exist.
            offered = hash_secret(presented.secret, self._pepper)
            if row is None or not hmac.compare_digest(offered, row.secret_hash):
                raise AuthenticationError(_REFUSAL)
            session.execute(
                update(ApiKey)
                .where(
                    ApiKey.id == row.id,
                    or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < func.now() - _LAST_USED_STEP),
                )
                .values(last_used_at=func.now())
            )
        key = AuthenticatedKey(row.id, row.project_id, frozenset(row.scopes))
        self._remember(text, key, row.expires_at)
        return key

    def _remember(self, text: str, key: AuthenticatedKey, expires_at: datetime | None) -> None:
        seconds = self._cache_seconds
        if expires_at is not None:
            seconds = min(seconds, (expires_at - datetime.now(UTC)).total_seconds())
        with self._lock:
            self._cache[sha256(text.encode()).digest()] = (time.monotonic() + seconds, key)
            while len(self._cache) > _CACHED_KEYS:
                self._cache.popitem(last=False)
