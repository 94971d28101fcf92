"""Runs that share a base end where they would have ended alone, whatever their neighbours do."""

import json
import math
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel

from tests.fixtures.tiny_models import TinyModel
from tests.training.builders import RecordingObserver
from tests.training.multi_lora.runs import RUNS, adapter, are_same, begin, distance, join
from worker.training.engine.forward import Forward
from worker.training.errors import NonFiniteLossError, SpecError, TrainingCancelled, TrainingStopped
from worker.training.events import CheckpointEvent, EvaluationEvent, Event, MetricsEvent, ResultEvent
from worker.training.multi_lora import exchange, passes
from worker.training.multi_lora.group import JobGroup
from worker.training.multi_lora.member import Member
from worker.training.multi_lora.passes import ForwardRequest, SharedPass, Tenant
from worker.training.observer import NullObserver
from worker.training.spec import EvaluationSettings, LoraSettings, RuntimeSettings, TrainingSpec
from worker.training.trainer import train

# Sums over other rows may end in other last bits of float32; what AdamW makes of them stays below this.
TOLERANCE = 1e-5
# Room for a batch of every run: the usual bound on a CPU is for rows of a usual length.
PACK_TOKENS = 8192

RunPass = Callable[..., tuple[SharedPass | None, Any]]


@pytest.fixture(name="shared")
def count_shared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of runs in every pass with gradient."""
    counts: list[int] = []
    run_pass = passes.run_pass

    def counted(forward: Forward, requests: list[ForwardRequest], *, own_model: bool) -> tuple[SharedPass | None, Any]:
        counts.extend([len(requests)] if requests[0].with_grad else [])
        return run_pass(forward, requests, own_model=own_model)

    monkeypatch.setattr(exchange, "run_pass", counted)
    return counts


def alone(folder: Path, model: Path, run: Mapping[str, Any]) -> Path:
    train(folder, begin(folder, model, run), NullObserver())
    return folder


def together(folder: Path, model: Path, names: list[str]) -> tuple[JobGroup, dict[str, Future[ResultEvent]]]:
    group = JobGroup(pack_tokens=PACK_TOKENS)
    return group, {n: join(group, folder / n, begin(folder / n, model, RUNS[n])) for n in names}


@pytest.mark.parametrize(("family", "most"), [("llama", 4), ("gpt2", 1)])
def test_an_adapter_trained_beside_others_is_the_one_trained_alone(
    tmp_path: Path, tiny_model: TinyModel, shared: list[int], family: str, most: int
) -> None:
    model = tiny_model(family)
    names = ["nlft", "all terms", "plain", "dropout", "few targets"] if family == "llama" else ["nlft", "dropout"]
    group, futures = together(tmp_path / "together", model, names)
    group.run()
    for name, future in futures.items():
        assert future.result().steps >= 10
        expected = adapter(alone(tmp_path / "alone" / name, model, RUNS[name]))
        assert distance(adapter(tmp_path / "together" / name), expected) <= TOLERANCE
    # GPT-2's layers are none that a shared pass knows, so there every run goes by itself.
    assert max(shared) == most


class Poisoning:
    """A run's membership, but for an adapter that starts with a number that is none."""

    def __init__(self, member: Member, value: float) -> None:
        self._member = member
        self._value = value
        self.load = member.load

    def choose_forward(self, adapted: PeftModel) -> Forward:
        forward = self._member.choose_forward(adapted)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.fill_(self._value)
        return forward


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_that_goes_mad_fails_alone_and_changes_no_bit_of_the_others(
    tmp_path: Path, tiny_model: TinyModel, shared: list[int], value: float
) -> None:
    model, kept = tiny_model(), ["plain"]

    def poisoned(folder: Path, spec: TrainingSpec) -> Callable[[Member], ResultEvent]:
        return lambda member: train(folder, spec, NullObserver(), None, Poisoning(member, value))

    group, futures = together(tmp_path / "mad", model, kept)
    folder = tmp_path / "mad" / "few targets"
    mad = group.add(poisoned(folder, begin(folder, model, RUNS["few targets"])))
    group.run()
    assert isinstance(mad.exception(), NonFiniteLossError)
    assert shared.count(2) == 1

    # The same packs, with a neighbour that is sane and leaves at the same moment.
    control, _ = together(tmp_path / "sane", model, kept)
    folder = tmp_path / "sane" / "few targets"
    leaving = RecordingObserver(end="cancel", after_step=1)
    gone = join(control, folder, begin(folder, model, RUNS["few targets"]), leaving)
    control.run()
    assert isinstance(gone.exception(), TrainingCancelled)
    for name, future in futures.items():
        assert future.exception() is None
        assert are_same(adapter(tmp_path / "mad" / name), adapter(tmp_path / "sane" / name))


def test_a_learning_rate_beyond_all_reason_fails_alone(tmp_path: Path, tiny_model: TinyModel) -> None:
    model = tiny_model()
    group, futures = together(tmp_path / "together", model, ["nlft"])
    folder = tmp_path / "together" / "few targets"
    mad = join(group, folder, begin(folder, model, RUNS["few targets"], learning_rate_multiplier=1e38))
    group.run()
    assert isinstance(mad.exception(), NonFiniteLossError)
    assert futures["nlft"].result().steps >= 10
    expected = adapter(alone(tmp_path / "alone", model, RUNS["nlft"]))
    assert distance(adapter(tmp_path / "together" / "nlft"), expected) <= TOLERANCE


def test_a_cancel_of_one_leaves_the_others_running(tmp_path: Path, tiny_model: TinyModel) -> None:
    model = tiny_model()
    group, futures = together(tmp_path / "together", model, ["nlft", "dropout"])
    folder = tmp_path / "together" / "all terms"
    observer = RecordingObserver(end="cancel", after_step=4)
    cancelled = join(group, folder, begin(folder, model, RUNS["all terms"]), observer)
    group.run()
    assert isinstance(cancelled.exception(), TrainingCancelled)
    assert len(observer.of(MetricsEvent)) == 4
    for name, future in futures.items():
        assert future.exception() is None
        expected = adapter(alone(tmp_path / "alone" / name, model, RUNS[name]))
        assert distance(adapter(tmp_path / "together" / name), expected) <= TOLERANCE


class Inviting(RecordingObserver):
    """Has another run join once a step was reported."""

    def __init__(self, step: int, invite: Callable[[], None]) -> None:
        super().__init__()
        self._step = step
        self._invite = invite

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, MetricsEvent) and event.step == self._step:
            self._invite()


def test_runs_may_join_later_and_leave_earlier(tmp_path: Path, tiny_model: TinyModel, shared: list[int]) -> None:
    model, group = tiny_model(), JobGroup(pack_tokens=PACK_TOKENS)
    late = tmp_path / "few targets"
    joined: list[Future[ResultEvent]] = []

    def invite() -> None:
        joined.append(join(group, late, begin(late, model, RUNS["few targets"])))

    first = join(group, tmp_path / "nlft", begin(tmp_path / "nlft", model, RUNS["nlft"]), Inviting(5, invite))
    group.run()
    assert first.result().steps == 12
    assert joined[0].result().steps == 20
    assert set(shared) == {1, 2}
    for name in ("nlft", "few targets"):
        expected = adapter(alone(tmp_path / "alone" / name, model, RUNS[name]))
        assert distance(adapter(tmp_path / name), expected) <= TOLERANCE


@pytest.mark.parametrize("name", ["all terms", "dropout"])
@pytest.mark.parametrize("begins", ["alone", "together"])
def test_a_checkpoint_is_the_same_thing_alone_and_in_a_group(
    tmp_path: Path, tiny_model: TinyModel, name: str, begins: Literal["alone", "together"]
) -> None:
    model, run = tiny_model(), RUNS[name]

    def train_somewhere(folder: Path, spec: TrainingSpec, observer: RecordingObserver, where: str) -> None:
        if where == "alone":
            train(folder, spec, observer)
            return
        group, _ = together(tmp_path / f"beside {folder.name}", model, ["nlft"])
        future = join(group, folder, spec, observer)
        group.run()
        future.result()

    first, second = tmp_path / "first", tmp_path / "second"
    observer = RecordingObserver(after_step=5)
    with pytest.raises(TrainingStopped):
        train_somewhere(first, begin(first, model, run), observer, begins)
    checkpoint = first / observer.of(CheckpointEvent)[-1].path
    spec = begin(second, model, run)
    shutil.copytree(checkpoint, second / "resume")
    resumed = RecordingObserver()
    train_somewhere(second, spec, resumed, "together" if begins == "alone" else "alone")
    assert resumed.of(MetricsEvent)[0].step == 6

    straight = alone(tmp_path / "straight", model, run)
    assert distance(adapter(second), adapter(straight)) <= TOLERANCE
    last = f"checkpoints/{sorted(path.name for path in (straight / 'checkpoints').iterdir())[-1]}"
    manifests = [json.loads((folder / last / "manifest.json").read_text()) for folder in (second, straight)]
    assert manifests[0]["fingerprint"] == manifests[1]["fingerprint"]
    assert manifests[0]["files"].keys() == manifests[1]["files"].keys()


def test_memory_that_does_not_suffice_for_a_shared_pass_changes_nothing(
    tmp_path: Path, tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, failures = tiny_model(), {"forward": 2, "backward": 2}
    run_pass, backward = passes.run_pass, SharedPass.backward

    def fail(direction: str) -> None:
        if failures[direction]:
            failures[direction] -= 1
            raise torch.OutOfMemoryError("scripted")

    def failing_pass(*arguments: Any, own_model: bool) -> tuple[SharedPass | None, Any]:
        if not own_model:
            fail("forward")
        return run_pass(*arguments, own_model=own_model)

    def failing_backward(self: SharedPass, present: set[Tenant]) -> None:
        if len(self.requests) > 1:
            fail("backward")
        backward(self, present)

    monkeypatch.setattr(exchange, "run_pass", failing_pass)
    monkeypatch.setattr(SharedPass, "backward", failing_backward)
    # Nothing is left of a budget that was halved four times: the group must be able to start with more.
    monkeypatch.setattr(exchange.Exchange, "_note_failed", lambda *_: None)
    group, futures = together(tmp_path / "together", model, ["nlft", "plain"])
    group.run()
    assert failures == {"forward": 0, "backward": 0}
    for name, future in futures.items():
        assert future.exception() is None
        expected = adapter(alone(tmp_path / "alone" / name, model, RUNS[name]))
        assert distance(adapter(tmp_path / "together" / name), expected) <= TOLERANCE


def test_answers_are_generated_while_others_train(tmp_path: Path, tiny_model: TinyModel) -> None:
    model, group = tiny_model(), JobGroup(pack_tokens=PACK_TOKENS)
    run = {**RUNS["few targets"], "rows": 8}

    def asked(folder: Path) -> TrainingSpec:
        return begin(folder, model, run).model_copy(update={"evaluation": EvaluationSettings(max_new_tokens=4)})

    observers = {place: RecordingObserver() for place in ("alone", "together")}
    train(tmp_path / "alone", asked(tmp_path / "alone"), observers["alone"])
    join(group, tmp_path / "together", asked(tmp_path / "together"), observers["together"])
    join(group, tmp_path / "nlft", begin(tmp_path / "nlft", model, RUNS["nlft"]))
    group.run()
    found = {place: [event.accuracy for event in one.of(EvaluationEvent)] for place, one in observers.items()}
    assert len(found["together"]) == 2
    assert found["together"] == found["alone"]
    assert distance(adapter(tmp_path / "together"), adapter(tmp_path / "alone")) <= TOLERANCE


@pytest.mark.parametrize("other", ["base model", "precision"])
def test_a_run_on_another_base_is_refused(tmp_path: Path, tiny_model: TinyModel, other: str) -> None:
    group, futures = together(tmp_path, tiny_model(), ["nlft"])
    model = tiny_model("qwen3") if other == "base model" else tiny_model()
    spec = begin(tmp_path / "other", model, RUNS["dropout"])
    if other == "precision":
        runtime = RuntimeSettings(device="cpu", dtype="bfloat16")
        spec = spec.model_copy(update={"runtime": runtime, "adapter": LoraSettings()})
    stranger = join(group, tmp_path / "other", spec)
    group.run()
    assert isinstance(stranger.exception(), SpecError)
    assert futures["nlft"].result().steps == 12


def test_no_thread_of_a_run_outlives_the_group() -> None:
    ended = threading.Event()

    class Lingering:
        def __del__(self) -> None:
            ended.wait(0.2)
            ended.set()

    local = threading.local()
    group = JobGroup()
    group.add(lambda _: setattr(local, "held", Lingering()))
    group.run()
    assert ended.is_set()
