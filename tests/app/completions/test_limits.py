"""How much of an endpoint one job may use: places, budget, patience."""

import pytest

from app.completions import asking
from tests.app.completions.asking import ask, client_of
from tests.fixtures.endpoints import FakeEndpoint, Reply


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "FIRST_WAIT_SECONDS", 0.01)


def test_no_more_requests_are_in_flight_than_allowed_and_all_places_are_used(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(seconds=0.05))
    with client_of(fake_endpoint, concurrency=3, timeout_seconds=10) as client:
        assert [answer.code for answer in ask(client, 12)] == [None] * 12
    assert fake_endpoint.most_at_once == 3


def test_a_budget_of_requests_counts_failed_ones_too(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(status=500), Reply("now"))
    with client_of(fake_endpoint, concurrency=1, max_requests=3) as client:
        answers = ask(client, 4)
    assert [answer.code for answer in answers] == [None, None, "budget_exhausted", "budget_exhausted"]
    assert len(fake_endpoint.asked) == 3
    assert "budget of 3 requests" in (answers[-1].error or "")


def test_a_budget_of_tokens_ends_the_questions_once_it_is_reached(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(tokens=60))
    with client_of(fake_endpoint, concurrency=1, max_tokens=100) as client:
        assert [answer.code for answer in ask(client, 3)] == [None, None, "budget_exhausted"]


def test_an_endpoint_without_a_word_about_usage_is_charged_by_length(fake_endpoint: FakeEndpoint) -> None:
    text = "x" * 390
    fake_endpoint.script(Reply(body=f'{{"choices": [{{"message": {{"content": "{text}"}}}}]}}'.encode()))
    with client_of(fake_endpoint, concurrency=1, max_tokens=100) as client:
        assert [answer.code for answer in ask(client, 2)] == [None, "budget_exhausted"]


def test_a_key_that_is_refused_is_not_tried_for_every_question(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(status=401))
    with client_of(fake_endpoint, concurrency=1) as client:
        assert {answer.code for answer in ask(client, 50)} == {"refused"}
    assert len(fake_endpoint.asked) == 1


def test_after_enough_failures_in_a_row_nothing_more_is_asked(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply(status=422))
    with client_of(fake_endpoint, concurrency=1, max_failures=5) as client:
        answers = ask(client, 50)
    assert {answer.code for answer in answers} == {"refused"}
    assert "failures in a row" in (answers[-1].error or "")
    assert len(fake_endpoint.asked) == 5


def test_a_success_forgives_the_failures_before_it(fake_endpoint: FakeEndpoint) -> None:
    replies = [Reply(status=422), Reply(status=422), Reply("fine")] * 4
    fake_endpoint.script(*replies)
    with client_of(fake_endpoint, concurrency=1, max_failures=3) as client:
        answers = ask(client, len(replies))
    assert [answer.code is None for answer in answers] == [False, False, True] * 4


def test_equal_questions_at_the_same_time_are_asked_once(fake_endpoint: FakeEndpoint) -> None:
    fake_endpoint.script(Reply("same", seconds=0.1))
    with client_of(fake_endpoint, timeout_seconds=10) as client:
        answers = ask(client, 6, text="all the same")
    assert [(answer.id, answer.text) for answer in answers] == [(number, "same") for number in range(6)]
    assert len(fake_endpoint.asked) == 1


def test_a_closed_client_takes_no_questions(fake_endpoint: FakeEndpoint) -> None:
    with client_of(fake_endpoint) as client:
        ask(client)
    with pytest.raises(RuntimeError, match="closed"):
        ask(client)
