import math
from dataclasses import replace

import pytest
from pydantic import ValidationError

from tests.training.builders import FACTS
from worker.training.methods.auto import RunFacts
from worker.training.methods.base import Hyperparameters
from worker.training.methods.nlft import NLFTHyperparameters


def resolve(rows: int = 50, parameters: int = 135_000_000, context: int = 8192) -> Hyperparameters:
    return Hyperparameters.resolve({}, RunFacts(rows, parameters, context))


@pytest.mark.parametrize("rows", [10, 25, 50, 80])
def test_few_rows_are_repeated_to_about_sixty_steps(rows: int) -> None:
    chosen = resolve(rows)
    assert 45 <= chosen.n_epochs * math.ceil(rows / chosen.batch_size) <= 75


def test_more_rows_get_fewer_epochs_and_larger_batches() -> None:
    sizes = [resolve(rows) for rows in (5, 50, 500, 5_000, 50_000)]
    assert [chosen.n_epochs for chosen in sizes] == sorted((chosen.n_epochs for chosen in sizes), reverse=True)
    assert [chosen.batch_size for chosen in sizes] == [4, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("parameters", "rate"), [(50_000, 2e-3), (135_000_000, 1e-3), (8_000_000_000, 1e-4), (10**12, 2e-5)]
)
def test_larger_models_learn_more_slowly(parameters: int, rate: float) -> None:
    assert resolve(parameters=parameters).learning_rate == pytest.approx(rate)


def test_sequences_are_no_longer_than_the_context() -> None:
    assert resolve(context=512).max_seq_length == 512


def test_explicit_values_win_over_auto() -> None:
    chosen = Hyperparameters.resolve({"n_epochs": 7, "batch_size": "auto"}, FACTS)
    assert (chosen.n_epochs, chosen.batch_size) == (7, 4)


@pytest.mark.parametrize("requested", [{"n_epoch": 3}, {"n_epoch": "auto"}, {"n_epochs": 0}, {"lr_scheduler": "step"}])
def test_unknown_names_and_values_out_of_range_are_refused(requested: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Hyperparameters.resolve(requested, FACTS)


def test_resolving_again_changes_nothing() -> None:
    once = resolve()
    assert Hyperparameters.resolve(once.model_dump(), replace(FACTS, rows=9999)) == once


def test_every_value_that_auto_chose_has_a_reason_and_no_other_has() -> None:
    requested = {"n_epochs": 7, "learning_rate": "auto"}
    choices = Hyperparameters.explain_auto(requested, FACTS)
    chosen = Hyperparameters.resolve(requested, FACTS)
    assert choices.keys() == {"batch_size", "learning_rate", "max_seq_length"}
    assert all(getattr(chosen, name) == choice.value and choice.reason for name, choice in choices.items())
    assert [name for name, choice in choices.items() if choice.from_rows] == ["batch_size"]


def test_values_of_a_preset_name_it() -> None:
    choices = NLFTHyperparameters.explain_auto({"preset": "paper", "n_epochs": 2}, FACTS)
    assert choices["loss_scale"].reason == "preset paper"
    assert "n_epochs" not in choices
