"""Runs that keep hidden states of frozen layers from epoch to epoch end with the adapter of runs that do not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver, make_workspace, sum_rows
from tests.training.pairs import LOSS_TOLERANCE, adapter_bytes, assert_same_adapter
from worker.training.engine.hidden_cache import HiddenStateCache
from worker.training.events import MessageEvent, MetricsEvent, ResultEvent
from worker.training.spec import LoraSettings, RuntimeSettings
from worker.training.trainer import train
from worker.training.types import TokenSequence

UPPER = LoraSettings(r=4, layers_to_transform=[-1])
KEPT = UPPER.model_copy(update={"cache_frozen_hidden_states": True})
ONLINE = {"scoring": "online", "hindsight_weight": 1.0, "cluster": "similarity"}


def run(
    folder: Path, model: Path, adapter: LoraSettings, method: str, **chosen: Any
) -> tuple[RecordingObserver, ResultEvent]:
    """Train ``method`` on eight rows, three held out; return what was told and what came of it."""
    hyperparameters = {"n_epochs": 3, "batch_size": 4, "learning_rate": 1e-2, **chosen}
    observer = RecordingObserver()
    spec = make_workspace(
        folder, model, sum_rows(8), sum_rows(3), method=method, adapter=adapter, hyperparameters=hyperparameters
    )
    return observer, train(folder, spec, observer)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_one_row_a_step_gives_the_same_bits(tmp_path: Path, tiny_model: TinyModel, family: str) -> None:
    for name, adapter in (("plain", UPPER), ("kept", KEPT)):
        run(tmp_path / name, tiny_model(family), adapter, "supervised", batch_size=1)
    assert adapter_bytes(tmp_path / "kept") == adapter_bytes(tmp_path / "plain")


@pytest.mark.parametrize("scoring", ["frozen", "epoch", "online"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_packed_rows_give_the_same_adapter(tmp_path: Path, tiny_model: TinyModel, family: str, scoring: str) -> None:
    chosen = {**ONLINE, "scoring": scoring} if scoring == "online" else {"scoring": scoring}
    plain, kept = (
        run(tmp_path / name, tiny_model(family), adapter, "nlft", **chosen)
        for name, adapter in (("plain", UPPER), ("kept", KEPT))
    )
    assert_same_adapter(tmp_path / "plain", tmp_path / "kept")
    for name in ("train_loss", "valid_loss"):
        found, expected = (
            [getattr(step, name) or 0 for step in observer.of(MetricsEvent)] for observer, _ in (kept, plain)
        )
        assert found == pytest.approx(expected, rel=LOSS_TOLERANCE)


def test_each_text_is_computed_once_in_a_run(
    tmp_path: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[bytes] = []
    find = HiddenStateCache.find

    def count(cache: HiddenStateCache, document: TokenSequence, compute: Callable[[TokenSequence], Tensor]) -> Tensor:
        def note(one: TokenSequence) -> Tensor:
            computed.append(one.input_ids.tobytes())
            return compute(one)

        return find(cache, document, note)

    monkeypatch.setattr(HiddenStateCache, "find", count)
    observer, result = run(tmp_path, tiny_model(), KEPT, "nlft", scoring="online")
    assert result.usage["hidden_state_bytes"] > 0
    assert observer.of(MetricsEvent)[-1].epoch == 3
    assert not any("Hidden states" in event.message for event in observer.of(MessageEvent))
    # The probe's two documents beside those of the rows.
    assert len(computed) == len(set(computed)) > 8 + 3 + 2


def test_where_there_is_no_memory_for_them_a_run_says_so(tmp_path: Path, tiny_model: TinyModel) -> None:
    runtime = RuntimeSettings(device="cpu", dtype="float32", hidden_state_cache_bytes=0)
    spec = make_workspace(tmp_path, tiny_model(), sum_rows(4), adapter=KEPT, runtime=runtime)
    observer = RecordingObserver()
    train(tmp_path, spec, observer)
    (message,) = [event.message for event in observer.of(MessageEvent) if "Hidden states" in event.message]
    assert "they are given no memory here" in message
