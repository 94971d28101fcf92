"""Who gets in: verification of presented keys, through HTTP and at the verifier itself."""

from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from sqlalchemy import update
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.auth.key_format import PresentedKey, generate_key, parse_key
from app.auth.scopes import Scope
from app.auth.service import KeyVerifier
from app.core.errors import AuthenticationError
from app.core.settings import Settings
from app.db.models import ApiKey
from app.db.session import SessionFactory
from app.main import create_app
from tests.fixtures.api import PEPPER, Tenant


@pytest.fixture
def verifier(session_factory: SessionFactory) -> KeyVerifier:
    return KeyVerifier(session_factory, PEPPER, cache_seconds=0)


def test_a_good_key_is_its_project(verifier: KeyVerifier, tenant: Tenant) -> None:
    key = verifier.verify(tenant.key)
    assert key.project_id == tenant.project_id
    assert key.allows(Scope.FILES_READ)
    assert not key.allows(Scope.ADMIN)


def test_a_wrong_secret_behind_a_known_public_id_is_refused(verifier: KeyVerifier, tenant: Tenant) -> None:
    known = parse_key(tenant.key)
    assert known is not None
    with pytest.raises(AuthenticationError):
        verifier.verify(PresentedKey(known.public_id, generate_key().secret).text)


def test_an_unknown_key_is_refused(verifier: KeyVerifier) -> None:
    with pytest.raises(AuthenticationError):
        verifier.verify(generate_key().text)


def test_another_pepper_knows_no_key(session_factory: SessionFactory, tenant: Tenant) -> None:
    with pytest.raises(AuthenticationError):
        KeyVerifier(session_factory, "another", cache_seconds=0).verify(tenant.key)


def test_a_key_stops_at_its_expiry(verifier: KeyVerifier, tenant: Tenant, session: Session) -> None:
    expired = datetime.now(UTC) - timedelta(seconds=1)
    created = api_keys.create_key(session, PEPPER, tenant.project_id, name="short", expires_at=expired)
    with pytest.raises(AuthenticationError):
        verifier.verify(created.text)


def test_a_revoked_key_is_refused(verifier: KeyVerifier, tenant: Tenant, session: Session) -> None:
    key_id = verifier.verify(tenant.key).id
    api_keys.revoke_key(session, tenant.project_id, key_id)
    with pytest.raises(AuthenticationError):
        verifier.verify(tenant.key)


def test_a_verified_key_is_believed_for_the_cache_time_only(session_factory: SessionFactory, tenant: Tenant) -> None:
    patient = KeyVerifier(session_factory, PEPPER, cache_seconds=30)
    assert patient.cached(tenant.key) is None
    verified = patient.verify(tenant.key)
    assert patient.cached(tenant.key) == verified
    forgetful = KeyVerifier(session_factory, PEPPER, cache_seconds=0)
    forgetful.verify(tenant.key)
    assert forgetful.cached(tenant.key) is None


def test_the_cache_never_outlives_the_key(session_factory: SessionFactory, tenant: Tenant, session: Session) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=5)
    created = api_keys.create_key(session, PEPPER, tenant.project_id, name="short", expires_at=soon)
    verifier = KeyVerifier(session_factory, PEPPER, cache_seconds=30)
    verifier.verify(created.text)
    ((deadline, _),) = verifier._cache.values()
    lifetimes = KeyVerifier(session_factory, PEPPER, cache_seconds=30)
    lifetimes.verify(tenant.key)
    ((ordinary, _),) = lifetimes._cache.values()
    assert deadline < ordinary - 20


def test_last_use_is_noted_coarsely(verifier: KeyVerifier, tenant: Tenant, session: Session) -> None:
    key_id = verifier.verify(tenant.key).id
    first = session.get_one(ApiKey, key_id).last_used_at
    assert first is not None
    verifier.verify(tenant.key)
    session.expire_all()
    assert session.get_one(ApiKey, key_id).last_used_at == first
    session.execute(update(ApiKey).values(last_used_at=first - timedelta(hours=1)))
    session.commit()
    verifier.verify(tenant.key)
    session.expire_all()
    again = session.get_one(ApiKey, key_id).last_used_at
    assert again is not None
    assert again >= first


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer nlft_nonsense", "nlft_x"])
def test_a_request_without_a_good_key_is_401(api_client: TestClient, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    del api_client.headers["authorization"]
    answer = api_client.get("/v1/models", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_scheme_is_case_insensitive(api_client: TestClient, tenant: Tenant) -> None:
    assert api_client.get("/v1/models", headers={"authorization": f"bearer {tenant.key}"}).status_code == 200


def test_a_key_without_the_scope_is_403(api_client: TestClient, tenant: Tenant, session: Session) -> None:
    narrow = api_keys.create_key(session, PEPPER, tenant.project_id, name="narrow", scopes=["files:read"])
    headers = {"authorization": f"Bearer {narrow.text}"}
    assert api_client.get("/v1/files", headers=headers).status_code == 200
    refused = api_client.delete("/v1/files/file-x", headers=headers)
    assert refused.status_code == 403
    assert refused.json()["error"]["type"] == "permission_error"
    assert "files:write" in refused.json()["error"]["message"]


def test_a_server_without_a_pepper_does_not_start(settings: Settings) -> None:
    with pytest.raises(ValueError, match="NLFT_API_KEY_PEPPER"):
        create_app(settings.model_copy(update={"api_key_pepper": type(settings.api_key_pepper)("")}))


def test_the_key_in_use_never_reaches_the_logs(
    api_client: TestClient, api_app: FastAPI, tenant: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    api_client.get(f"/v1/files/{tenant.key}")
    written = capsys.readouterr().err
    assert "/v1/files/[redacted]" in written
    assert tenant.key not in written
