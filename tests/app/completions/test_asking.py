"""What becomes of one question, whatever the endpoint does."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from app.completions import asking
from tests.app.completions.asking import MODEL, ask, client_of, question
from tests.fixtures.endpoints import FakeEndpoint, Reply


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.01)


def test_the_question_arrives_as_a_chat_completion_and_the_answer_comes_back(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply("It is 24."))
    with client_of(fake_endpoint) as client:
        (answer,) = ask(client, temperature=0.5, max_tokens=100, top_p=None)
    assert (answer.id, answer.text, answer.code) == (0, "It is 24.", None)
    (asked,) = fake_endpoint.asked
    assert asked.body == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Question 0"}],
        "temperature": 0.5,
        "max_tokens": 100,
    }


def test_a_job_may_name_a_model_that_the_endpoint_offers(fake_endpoint: FakeEndpoint) -> None:
    with client_of(fake_endpoint, models=("org/small",)) as client:
        answers = [ask(client, model=name)[0] for name in ("judge/org/small", "judge/other", "nobody")]
    assert [answer.code for answer in answers] == [None, "unknown_endpoint", "unknown_endpoint"]
    assert [asked.body["model"] for asked in fake_endpoint.asked] == ["org/small"]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(fake_endpoint: FakeEndpoint, status: int) -> None:
    fake_endpoint.script(Reply(status=status), Reply("now"))
    with client_of(fake_endpoint) as client:
        assert ask(client)[0].text == "now"
    assert len(fake_endpoint.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_will_not_pass_is_not_tried_again(fake_endpoint: FakeEndpoint, status: int) -> None:
    fake_endpoint.script(Reply(status=status))
    with client_of(fake_endpoint) as client:
        (answer,) = ask(client)
    assert answer.code == "refused"
    assert str(status) in (answer.error or "")
    assert len(fake_endpoint.asked) == 1


def test_a_redirect_is_not_followed(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(status=307, headers={"location": "http://127.0.0.1:1/v1/chat/completions"}))
    with client_of(fake_endpoint) as client:
        assert ask(client)[0].code == "refused"


def test_the_wait_that_the_endpoint_asks_for_is_kept_by_everybody(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(status=429, headers={"retry-after": "0.4"}), Reply("now"))
    with client_of(fake_endpoint, concurrency=1) as client:
        began = time.monotonic()
        assert [answer.text for answer in ask(client, 2)] == ["now", "now"]
    assert time.monotonic() - began >= 0.4


def test_a_wait_may_be_a_date_and_one_too_long_ends_the_question(fake_endpoint: FakeEndpoint) -> None:
    tomorrow = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    fake_endpoint.script(Reply(status=429, headers={"retry-after": tomorrow}))
    with client_of(fake_endpoint) as client:
        (answer,) = ask(client)
    assert answer.code == "refused"
    assert "asks to wait" in (answer.error or "")
    assert len(fake_endpoint.asked) == 1


def test_an_endpoint_that_never_answers_times_out(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(hangs=True))
    with client_of(fake_endpoint) as client:
        (answer,) = ask(client)
    assert answer.code == "timeout"
    assert len(fake_endpoint.asked) == 2


def test_a_slow_endpoint_is_waited_for_as_long_as_its_setting_says(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply("late", seconds=0.4))
    with client_of(fake_endpoint, timeout_seconds=10) as client:
        assert ask(client)[0].text == "late"


def test_a_broken_connection_is_made_again(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(drops=True), Reply("now"))
    with client_of(fake_endpoint) as client:
        assert ask(client)[0].text == "now"


def test_a_port_where_nobody_listens_is_unreachable(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.close()
    with client_of(fake_endpoint) as client:
        assert ask(client)[0].code == "unreachable"


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Bad gateway</html>",
        b"",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": "\\ud800"}}]}',
        b"[" * 100_000,
        b"x" * (asking.ANSWER_BYTES + 1),
    ],
    ids=["html", "empty", "list", "no choice", "number", "surrogate", "deep", "huge"],
)
def test_nonsense_is_malformed(fake_endpoint: FakeEndpoint, body: bytes) -> None:
    fake_endpoint.script(Reply(body=body))
    with client_of(fake_endpoint, timeout_seconds=10) as client:
        (answer,) = ask(client)
    assert (answer.code, answer.text) == ("malformed", None)
    assert len(fake_endpoint.asked) == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [('""', ""), ("null", ""), ('"a\\u0000b"', "ab"), ('[{"type": "text", "text": "a"}, {"type": "refusal"}]', "a")],
)
def test_odd_contents_become_text(fake_endpoint: FakeEndpoint, content: str, text: str) -> None:
    fake_endpoint.script(Reply(body=f'{{"choices": [{{"message": {{"content": {content}}}}}]}}'.encode()))
    with client_of(fake_endpoint) as client:
        assert ask(client)[0].text == text


def test_neither_key_nor_address_nor_words_of_the_endpoint_reach_the_job(
    fake_endpoint: FakeEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    body = b'{"error": {"message": "Incorrect API key provided: sk-operator-secret"}}'
    fake_endpoint.script(Reply(status=401, body=body))
    with client_of(fake_endpoint) as client:
        (answer,) = ask(client)
    shown = f"{answer} {caplog.text}"
    assert "sk-operator-secret" not in shown
    assert fake_endpoint.url not in str(answer)
    assert "Incorrect" not in str(answer)


def test_giving_up_ends_the_wait_at_once(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(hangs=True))

    def cancel(done: int, total: int) -> None:
        if fake_endpoint.asked:
            raise InterruptedError

    with client_of(fake_endpoint, timeout_seconds=60) as client:
        began = time.monotonic()
        with pytest.raises(InterruptedError):
            client.complete([question(number) for number in range(9)], cancel)
    assert time.monotonic() - began < 5
    assert len(fake_endpoint.asked) <= 4


def test_progress_counts_to_the_end(fake_endpoint: FakeEndpoint) -> None:
    seen: list[tuple[Any, ...]] = []
    with client_of(fake_endpoint) as client:
        client.complete([question(number) for number in range(5)], lambda *counts: seen.append(counts))
    assert seen[-1] == (5, 5)
    assert seen == sorted(seen)
