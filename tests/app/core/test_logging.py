"""What the logs must not hold."""

import json
import logging

import pytest

from app.auth.key_format import generate_key
from app.core.logging import configure_logging, get_logger, redact


@pytest.mark.parametrize("name", ["authorization", "api_key", "apikey", "api_key_pepper", "password", "lease_token"])
def test_a_value_whose_name_says_secret_is_redacted(name: str) -> None:
    assert redact(None, "info", {name: "visible"}) == {name: "[redacted]"}


def test_a_key_inside_a_text_is_redacted() -> None:
    key = generate_key().text
    assert redact(None, "info", {"event": f"GET /v1/files/{key}?x"}) == {"event": "GET /v1/files/[redacted]?x"}


def test_the_password_of_a_url_is_redacted() -> None:
    event = redact(None, "info", {"detail": "no route to postgresql://user:hunter2@host:5432/nlft"})
    assert event["detail"] == "no route to postgresql://[redacted]@host:5432/nlft"


def test_ordinary_words_stay() -> None:
    event = {"event": "request", "tokens": 12, "trained_tokens": 3, "path": "/v1/files", "key_id": "key_1"}
    assert redact(None, "info", dict(event)) == event


def test_our_lines_and_those_of_libraries_have_one_json_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    get_logger("ours").info("something happened", job_id="ftjob-1")
    logging.getLogger("theirs").warning("careful with %s", "postgresql://a:b@c/d")
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["job_id"], ours["level"], ours["logger"]) == (
        "something happened",
        "ftjob-1",
        "info",
        "ours",
    )
    assert (theirs["event"], theirs["level"]) == ("careful with postgresql://[redacted]@c/d", "warning")


def test_configuring_twice_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO")
    configure_logging("WARNING")
    get_logger("ours").info("too quiet")
    get_logger("ours").warning("once")
    assert len(capsys.readouterr().err.splitlines()) == 1
