"""The operator's file of endpoints."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from app.completions.configuration import Endpoint, Endpoints, UnknownEndpointError
from app.core.settings import Settings

FILE = """
[judge]
base_url = "https://llm.example.com/v1"
api_key_env = "TEST_JUDGE_KEY"
model = "large"
models = ["org/small"]

[open]
base_url = "http://127.0.0.1:8080/v1"
models = ["*"]
"""


def load(tmp_path: Path, text: str) -> Endpoints:
    path = tmp_path / "endpoints.toml"
    path.write_text(text)
    return Endpoints.from_settings(Settings(endpoints_file=path))


@pytest.fixture
def endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoints:
    monkeypatch.setenv("TEST_JUDGE_KEY", "sk-from-the-environment")
    return load(tmp_path, FILE)


def test_without_the_setting_there_are_none() -> None:
    assert Endpoints.from_settings(Settings()).items() == []


@pytest.mark.parametrize(
    ("written", "name", "model"),
    [
        ("judge", "judge", "large"),
        ("judge/large", "judge", "large"),
        ("judge/org/small", "judge", "org/small"),
        ("open/any/thing", "open", "any/thing"),
    ],
)
def test_a_name_means_an_endpoint_and_a_model(endpoints: Endpoints, written: str, name: str, model: str) -> None:
    target = endpoints.find(written)
    assert (target.name, target.model) == (name, model)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("jugde", "There is no endpoint 'jugde'. Endpoints: judge, open."),
        ("open", "has no model of its own"),
        ("judge/other", "it offers: large, org/small"),
        ("https://evil.example.com/v1", "There is no endpoint 'https:'"),
    ],
)
def test_what_means_nothing_is_answered_with_what_there_is(endpoints: Endpoints, written: str, told: str) -> None:
    with pytest.raises(UnknownEndpointError, match=told):
        endpoints.find(written)


def test_the_key_comes_from_the_environment_or_the_file_and_is_never_shown(endpoints: Endpoints) -> None:
    assert endpoints.find("judge").endpoint.key == "sk-from-the-environment"
    assert endpoints.find("open/x").endpoint.key is None
    inline = Endpoint(base_url="http://a/v1", api_key=SecretStr("sk-inline"), model="m")
    assert inline.key == "sk-inline"
    assert "sk-" not in repr(inline)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[judge", "cannot be read as TOML"),
        ('[judge]\nbase_url = "ftp://x"\nmodel = "m"', "judge.base_url"),
        ('[judge]\nbase_url = "http://x/v1"', "needs a model"),
        ('[judge]\nbase_url = "http://x/v1"\nmodel = "m"\napi_key_env = "TEST_NOT_SET"', "TEST_NOT_SET is not set"),
        ('[judge]\nbase_url = "http://x/v1"\nmodel = "m"\napi_key = "sk-1"\ntimeout = 3', "judge.timeout"),
        ('["a b"]\nbase_url = "http://x/v1"\nmodel = "m"', "a b"),
    ],
)
def test_a_wrong_file_is_refused_without_repeating_a_key(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        load(tmp_path, text)
    assert "sk-1" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NLFT_ENDPOINTS_FILE"):
        Endpoints.from_settings(Settings(endpoints_file=tmp_path / "nothing.toml"))
