import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fixtures.tiny_models import TinyModel, reference_to
from tests.training.builders import FACTS, sum_rows
from tests.training.models import adapt
from worker.training.data.reader import read_rows
from worker.training.data.rendering import ModelRenderer
from worker.training.engine.prepared import PreparedExample
from worker.training.engine.scoring import Scorer
from worker.training.errors import DatasetError, PreviewTooLargeError, SpecError, TrainingCancelled
from worker.training.explaining import explain
from worker.training.methods import METHODS
from worker.training.model.adapter import attach_adapter, save_adapter
from worker.training.model.base_model import load_base_model
from worker.training.previews.protocol import PreviewAdapter, PreviewAnswer, PreviewRequest
from worker.training.previews.workbench import Workbench
from worker.training.saliency_record import SaliencyRecord
from worker.training.spec import LoraSettings, RuntimeSettings

RUNTIME = RuntimeSettings(device="cpu", dtype="float32")
ROWS = sum_rows(6)


def keep_on() -> None:
    """Never ask for an end."""


def request(folder: Path, rows: Sequence[Mapping[str, Any]] = ROWS, **changes: Any) -> PreviewRequest:
    hyperparameters = METHODS["nlft"].hyperparameters_type.resolve(changes.pop("hyperparameters", {}), FACTS)
    fields: dict[str, Any] = {
        "owner": "proj_1",
        "model": "tiny",
        "base_model": reference_to(folder),
        "method": "nlft",
        "hyperparameters": hyperparameters.model_dump(mode="json"),
        "rows": "".join(json.dumps({"correct": "judgment" not in row, **row}) + "\n" for row in rows),
        "most_tokens": 100_000,
        "runtime": RUNTIME,
    }
    return PreviewRequest(**(fields | changes))


def explained(
    folder: Path, asked: PreviewRequest, adapter: tuple[Path, LoraSettings] | None = None
) -> list[SaliencyRecord]:
    """Return what a job's own explanation says about the same rows, without any cache."""
    loaded = load_base_model(reference_to(folder), RUNTIME)
    method = METHODS["nlft"]
    hyperparameters = method.hyperparameters_type.model_validate(asked.hyperparameters)
    adapted = attach_adapter(loaded.model, LoraSettings(), base_model_name="tiny", seed=0)
    if adapter is not None:
        adapted = adapt(adapted.unload(), r=4)
    renderer = ModelRenderer(loaded.tokenizer)
    examples = [
        PreparedExample(row.line, method.render(row.example, renderer, hyperparameters))
        for row in read_rows([asked.rows.encode()])
    ]
    scorer = Scorer(adapted, micro_batch_tokens=1024)
    with scorer.attention():
        return explain(scorer, method, hyperparameters, examples, tokenizer=loaded.tokenizer, step=0)


def assert_close(answer: PreviewAnswer, expected: Sequence[SaliencyRecord]) -> None:
    assert len(answer.data) == len(expected)
    for ours, theirs in zip(answer.data, expected, strict=True):
        assert ours.example == theirs.example
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-4)
        for mine, other in zip(ours.tokens, theirs.tokens, strict=True):
            assert (mine.text, mine.id, mine.class_, mine.direction) == (
                other.text,
                other.id,
                other.class_,
                other.direction,
            )
            assert mine.base == pytest.approx(other.base, rel=1e-4)
            assert mine.weight == pytest.approx(other.weight, rel=1e-3)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_model: TinyModel) -> tuple[Path, PreviewAdapter]:
    folder = tiny_model()
    adapted = adapt(load_base_model(reference_to(folder), RUNTIME).model, r=4)
    target = tmp_path_factory.mktemp("adapter")
    save_adapter(adapted, target)
    return folder, PreviewAdapter(path=str(target), digest="a" * 64)


@pytest.mark.parametrize("scoring", ["frozen", "online"])
@pytest.mark.parametrize("cluster", ["none", "distance", "similarity"])
def test_preview_of_a_base_model_says_what_a_job_says_at_step_0(
    tiny_model: TinyModel, scoring: str, cluster: str
) -> None:
    folder = tiny_model()
    asked = request(folder, hyperparameters={"scoring": scoring, "cluster": cluster})
    answer = Workbench().answer(asked, keep_on)
    assert_close(answer, explained(folder, asked))
    assert [record.example.correct for record in answer.data] == [True, False] * 3


@pytest.mark.parametrize("scoring", ["frozen", "online"])
def test_preview_of_a_tuned_model_uses_its_adapter_and_the_next_one_of_the_base_does_not(
    tuned: tuple[Path, PreviewAdapter], scoring: str
) -> None:
    folder, adapter = tuned
    bench = Workbench()
    asked = request(folder, hyperparameters={"scoring": scoring})
    plain = bench.answer(asked, keep_on)
    with_adapter = bench.answer(request(folder, adapter=adapter, hyperparameters={"scoring": scoring}), keep_on)
    assert_close(with_adapter, explained(folder, asked, (Path(adapter.path), LoraSettings(r=4))))
    assert with_adapter.data[0].tokens[0].base != plain.data[0].tokens[0].base

    again = bench.answer(request(folder, rows=sum_rows(8)), keep_on)
    assert_close(again, explained(folder, request(folder, rows=sum_rows(8))))


@pytest.mark.parametrize(
    "changed",
    [
        {"reference_threshold": 0.5},
        {"judgment_ratio_threshold": 1.01, "over_cap": "none"},
        {"cluster": "distance"},
        {"cluster": "similarity", "cluster_distance": 0.1},
        {"scoring": "online"},
        {"hindsight_weight": 1.0},
        {"nll_weight": 0.0},
    ],
)
def test_changed_thresholds_need_no_forward_pass(tiny_model: TinyModel, changed: dict[str, Any]) -> None:
    folder = tiny_model()
    bench = Workbench()
    first = bench.answer(request(folder), keep_on)
    assert first.usage.cached_tokens == 0
    asked = request(folder, hyperparameters=changed)
    second = bench.answer(asked, keep_on)
    assert second.usage.scored_tokens == 0
    assert second.usage.cached_tokens == first.usage.scored_tokens
    assert_close(second, explained(folder, asked))


def test_another_example_costs_only_its_own_pass(tiny_model: TinyModel) -> None:
    bench, folder = Workbench(), tiny_model()
    bench.answer(request(folder), keep_on)
    longer = bench.answer(request(folder, rows=sum_rows(7)), keep_on)
    assert 0 < longer.usage.scored_tokens < longer.usage.cached_tokens


def test_scores_are_never_shared_between_owners(tiny_model: TinyModel) -> None:
    bench, folder = Workbench(), tiny_model()
    bench.answer(request(folder), keep_on)
    assert bench.answer(request(folder, owner="proj_2"), keep_on).usage.cached_tokens == 0


def test_base_models_can_be_swapped(tiny_model: TinyModel) -> None:
    bench = Workbench()
    for family in ("llama", "gpt2", "llama"):
        asked = request(tiny_model(family))
        assert_close(bench.answer(asked, keep_on), explained(tiny_model(family), asked))


def test_probabilities_are_probabilities_and_weights_add_up(tiny_model: TinyModel) -> None:
    for record in Workbench().answer(request(tiny_model()), keep_on).data:
        assert math.isclose(record.weights_sum, sum(token.weight for token in record.tokens))
        values = [p for token in record.tokens for p in (token.base, token.reference, token.judgment) if p is not None]
        assert all(0 <= value <= 1 for value in values)


def test_too_many_tokens_are_refused_with_the_figures(tiny_model: TinyModel) -> None:
    with pytest.raises(PreviewTooLargeError, match=r"come to \d+ tokens in all .* a preview takes at most 100"):
        Workbench().answer(request(tiny_model(), most_tokens=100), keep_on)


def test_bad_rows_are_listed_by_their_place(tiny_model: TinyModel) -> None:
    rows = [*ROWS[:2], {**ROWS[2], "response": "<|im_end|> and more"}]
    with pytest.raises(DatasetError) as caught:
        Workbench().answer(request(tiny_model(), rows=rows), keep_on)
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [(3, "response")]


def test_a_cancel_between_two_passes_ends_the_work_and_harms_nothing(tiny_model: TinyModel) -> None:
    asked, bench, calls = request(tiny_model(), rows=sum_rows(120)), Workbench(), 0

    def cancel() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise TrainingCancelled

    with pytest.raises(TrainingCancelled):
        bench.answer(asked, cancel)
    assert bench.answer(request(tiny_model()), keep_on).usage.scored_tokens > 0


def test_an_unreadable_adapter_is_refused_and_the_bench_goes_on(tiny_model: TinyModel, tmp_path: Path) -> None:
    bench, folder = Workbench(), tiny_model()
    with pytest.raises(SpecError, match="adapter cannot be read"):
        bench.answer(request(folder, adapter=PreviewAdapter(path=str(tmp_path), digest="b" * 64)), keep_on)
    assert_close(bench.answer(request(folder), keep_on), explained(folder, request(folder)))


def test_the_methods_without_contexts_are_previewed_too(tiny_model: TinyModel) -> None:
    for name in ("supervised", "dynamic"):
        chosen = METHODS[name].hyperparameters_type.resolve({}, FACTS).model_dump(mode="json")
        answer = Workbench().answer(
            request(tiny_model(), method=name).model_copy(update={"hyperparameters": chosen}), keep_on
        )
        assert all(token.reference is None for record in answer.data for token in record.tokens)
        assert torch.tensor([token.weight for record in answer.data for token in record.tokens]).ge(0).all()
