"""Validation errors in the caller's words."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from app.core.errors import InvalidRequestError
from app.core.field_paths import invalid_request
from app.core.schemas import Schema


class Settings(Schema):
    n_epochs: int | Literal["auto"] = "auto"
    learning_rate: float = Field(1e-4, gt=0)


class Method(Schema):
    type: str
    supervised: Settings | None = None


class Alpha(Schema):
    kind: Literal["alpha"]
    size: int


class Beta(Schema):
    kind: Literal["beta"]
    size: int


class Body(Schema):
    model: str
    method: Method | None = None
    metadata: dict[str, str] | None = None
    rows: list[Settings] | None = None
    shape: Annotated[Alpha | Beta, Field(discriminator="kind")] | None = None


def tuned(**settings: Any) -> dict[str, Any]:
    """Return a body whose only fault may be in its settings."""
    return {"model": "m", "method": {"type": "s", "supervised": settings}}


def fault_of(body: dict[str, Any], prefix: str = "") -> InvalidRequestError:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(body)
    return invalid_request(caught.value, Body, prefix=prefix)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "model", "missing_required_parameter"),
        ({"model": 3}, "model", "invalid_value"),
        ({"model": "m", "modle": 1}, "modle", "unknown_parameter"),
        (tuned(n_epoch=1), "method.supervised.n_epoch", "unknown_parameter"),
        (tuned(n_epochs="x"), "method.supervised.n_epochs", "invalid_value"),
        (tuned(learning_rate=0), "method.supervised.learning_rate", "invalid_value"),
        ({"model": "m", "metadata": {"key": 1}}, "metadata.key", "invalid_value"),
        ({"model": "m", "rows": [{}, {"n_epochs": []}]}, "rows[1].n_epochs", "invalid_value"),
        ({"model": "m", "shape": {"kind": "alpha", "size": "x"}}, "shape.size", "invalid_value"),
        ({"model": "m", "shape": {"kind": "gamma"}}, "shape.kind", "invalid_value"),
    ],
)
def test_the_param_is_the_path_that_the_caller_wrote(body: dict[str, Any], param: str, code: str) -> None:
    fault = fault_of(body)
    assert (fault.param, fault.code) == (param, code)
    assert param in fault.message


def test_an_unknown_name_comes_with_the_nearest_known_one() -> None:
    fault = fault_of(tuned(learnin_rate=1))
    assert fault.message == ("Unknown parameter: 'method.supervised.learnin_rate'. Did you mean 'learning_rate'?")


def test_a_name_like_nothing_known_gets_no_suggestion() -> None:
    assert fault_of({"model": "m", "zzzzzz": 1}).message == "Unknown parameter: 'zzzzzz'."


def test_every_fault_is_told_and_the_first_is_the_param() -> None:
    fault = fault_of({"modle": "m", "method": {"type": 1}})
    assert fault.param == "model"
    assert "'modle'" in fault.message
    assert "'method.type'" in fault.message


def test_more_than_five_faults_are_counted() -> None:
    assert fault_of({"model": "m", **{f"unknown{n}": n for n in range(7)}}).message.endswith("(and 2 more)")


def test_a_prefix_says_where_the_value_sits_in_the_request() -> None:
    assert fault_of({}, prefix="method.nlft").param == "method.nlft.model"


def test_a_long_value_is_not_repeated_to_the_caller() -> None:
    assert "secret" not in fault_of(tuned(n_epochs="secret" * 50)).message
