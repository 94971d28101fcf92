"""Every figure of a record follows from the others by the formulas of docs/nlft.md."""

import math
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from tests.fixtures.tiny_models import build_tokenizer
from tests.training.builders import FACTS, question, scores
from tests.training.explaining.formulas import recompute
from tests.training.models import adapt, own_logprobs, random_model
from worker.training.data.examples import ChatExample, Example, Message, NLFTExample
from worker.training.data.rendering import ModelRenderer
from worker.training.engine.prepared import PreparedExample
from worker.training.engine.scoring import Scorer
from worker.training.explaining import Measured, explain, measure, weigh
from worker.training.methods import METHODS
from worker.training.methods.nlft import NLFT, NLFTHyperparameters
from worker.training.methods.supervised import Supervised
from worker.training.saliency_record import SaliencyRecord
from worker.training.types import ScoredBatch, TokenSequence

TOKENIZER = build_tokenizer()
RENDERER = ModelRenderer(TOKENIZER)
ROWS = [
    NLFTExample(question("1 + 2?"), response="It is 3, the sum.", reference="#### 3", correct=True),
    NLFTExample(question("2 + 2?"), response="It is 5, no?", reference="#### 4", judgment="It is 4.", correct=False),
    NLFTExample(question("3 + 2?"), response="Six.", reference="#### 5", correct=False),
    NLFTExample(question("4 + 2?"), response="Well: 6.", reference="#### 6", judgment="fine", correct=True),
]
# A random model finds nearly nothing likely: thresholds at which every class occurs.
SENSITIVE = {"reference_threshold": 0.004, "judgment_ratio_threshold": 1.01, "judgment_probability_floor": 0.0}


@cache
def model() -> PeftModel:
    return adapt(random_model("llama"))


def choose(**values: Any) -> NLFTHyperparameters:
    return NLFTHyperparameters.model_validate(SENSITIVE | values)


def render(method: Any, chosen: Any, rows: list[Example] | None = None) -> list[PreparedExample]:
    return [
        PreparedExample(line, method.render(row, RENDERER, chosen))
        for line, row in enumerate(ROWS if rows is None else rows, start=1)
    ]


def explained(chosen: NLFTHyperparameters, *, step: int = 0) -> list[SaliencyRecord]:
    scorer = Scorer(model(), micro_batch_tokens=10_000)
    with scorer.attention():
        return explain(scorer, NLFT(), chosen, render(NLFT(), chosen), tokenizer=TOKENIZER, step=step)


def assert_recomputable(records: list[SaliencyRecord], chosen: NLFTHyperparameters) -> None:
    for record in records:
        weights, classes = recompute(record, chosen)
        shown = np.array([token.weight for token in record.tokens])
        np.testing.assert_allclose(shown, weights, rtol=1e-6, atol=1e-6)
        assert [token.class_ for token in record.tokens] == classes
        assert record.weights_sum == pytest.approx(shown.sum())


@pytest.mark.parametrize("scoring", ["online", "frozen"])
@pytest.mark.parametrize("cluster", ["none", "distance", "similarity"])
def test_every_weight_follows_from_the_probabilities(scoring: str, cluster: str) -> None:
    chosen = choose(scoring=scoring, cluster=cluster)
    records = explained(chosen)
    assert [record.example.correct for record in records] == [True, False, False, True]
    assert_recomputable(records, chosen)
    found = {token.class_ for record in records for token in record.tokens}
    assert {"salient", "other"} <= found
    assert ("neighbour" in found) == (cluster != "none")


def spread(chosen: NLFTHyperparameters, seed: int, *, rows: int = 4, length: int = 40) -> Measured:
    """Return rows whose probabilities cover (0, 1), as a random model's do not; every other one is wrong and judged."""
    generator = np.random.default_rng(seed)

    def draw(present: Sequence[bool]) -> list[list[float]]:
        return [generator.beta(0.4, 0.4, length).tolist() if wanted else [] for wanted in present]

    everywhere, wrong = [True] * rows, [index % 2 == 1 for index in range(rows)]
    hidden = torch.from_numpy(generator.normal(size=(rows * length, 2))).float()
    passes = {
        "base": scores(*draw(everywhere), hidden=hidden),
        "reference": scores(*draw(everywhere)),
        "judgment": scores(*draw(wrong)),
    }
    if chosen.scoring == "frozen":
        passes["judged_base"] = scores(*draw(wrong))
    right = torch.tensor([0.0 if value else 1.0 for value in wrong])
    ids = (tuple(range(length)),) * rows
    texts = (("x",) * length,) * rows
    return Measured(tuple(range(1, rows + 1)), (), ScoredBatch(passes, {"right": right}), ids, texts)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scoring", ["online", "frozen"])
@pytest.mark.parametrize("cluster", ["none", "distance", "similarity"])
@pytest.mark.parametrize("over_cap", ["none", "mask_salient", "salient_only"])
def test_published_thresholds_on_probabilities_of_all_sizes(
    scoring: str, cluster: str, over_cap: str, seed: int
) -> None:
    chosen = NLFTHyperparameters.model_validate(
        {"scoring": scoring, "cluster": cluster, "over_cap": over_cap, "max_salient_tokens": 6 * seed}
    )
    records = weigh(spread(chosen, seed), NLFT(), chosen, step=3)
    assert_recomputable(records, chosen)
    tokens = [token for record in records for token in record.tokens]
    assert {token.class_ for token in tokens} >= {"salient", "other"}
    assert {token.direction for token in tokens} >= {"raise"}
    assert all((token.direction == "none") == (token.weight == 0) for token in tokens)
    lowered = [token for record in records[1::2] for token in record.tokens if token.class_ == "salient"]
    assert all(token.direction in {"lower", "none"} for token in lowered)


@pytest.mark.parametrize("contrast", ["base_and_reference", "reference"])
@pytest.mark.parametrize("after_error", ["keep", "mask"])
@pytest.mark.parametrize("cluster", ["none", "similarity"])
def test_settings_beyond_the_paper(contrast: str, after_error: str, cluster: str) -> None:
    chosen = NLFTHyperparameters.model_validate(
        {"contrast": contrast, "after_error": after_error, "cluster": cluster, "over_cap": "none"}
        | {"refused_exponent": 2.0, "salient_exponent": 2.0, "neighbour_exponent": 0.1, "other_exponent": 1.5}
        | {"reference_threshold": 0.8, "scale_center": 3.0, "judgment_probability_floor": 0.2}
    )
    assert_recomputable(weigh(spread(chosen, 9), NLFT(), chosen, step=0), chosen)


def test_probabilities_are_those_of_the_model() -> None:
    chosen = choose(scoring="frozen")
    record = explained(chosen)[1]
    rendered = NLFT().render(ROWS[1], RENDERER, chosen)
    live = probabilities(rendered.sequences["base"])
    with model().disable_adapter():
        bare = probabilities(rendered.sequences["base"])
        judgment = probabilities(rendered.sequences["judgment"])
    for name, expected in (("base", live), ("frozen_base", bare), ("judgment", judgment)):
        assert [getattr(token, name) for token in record.tokens] == pytest.approx(expected, rel=1e-4)


def probabilities(sequence: TokenSequence) -> list[float]:
    adapted: Any = model()
    with torch.inference_mode():
        found: list[float] = own_logprobs(adapted, sequence).exp().tolist()
    return found


def test_what_a_row_lacks_is_null() -> None:
    right, judged, unjudged, _ = explained(choose(scoring="frozen"))
    assert {(token.judgment, token.frozen_base) for token in [*right.tokens, *unjudged.tokens]} == {(None, None)}
    assert all(token.judgment is not None and token.frozen_base is not None for token in judged.tokens)
    online = explained(choose(scoring="online"))[1]
    assert {token.frozen_base for token in online.tokens} == {None}


def test_texts_join_to_the_response_and_its_end() -> None:
    record = explained(choose())[0]
    assert "".join(token.text for token in record.tokens) == "It is 3, the sum.<|im_end|>"


def test_loss_is_the_methods_own() -> None:
    plain, scaled = explained(choose()), explained(choose(loss_scale=10.0))
    for one, ten in zip(plain, scaled, strict=True):
        assert ten.loss == pytest.approx(10 * one.loss)
    right = plain[0]
    terms = [-(token.weight + 1) * math.log(token.base) for token in right.tokens]
    assert right.loss == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_supervised_rows_weigh_one_everywhere() -> None:
    method = Supervised()
    chosen = method.hyperparameters_type.resolve({}, FACTS)
    rows: list[Example] = [ChatExample([*question("1 + 2?"), Message("assistant", "3"), *question("?")])]
    scorer = Scorer(model(), micro_batch_tokens=10_000)
    with scorer.attention():
        (record,) = explain(scorer, method, chosen, render(method, chosen, rows), tokenizer=TOKENIZER, step=5)
    assert record.example.correct is None
    assert record.step == 5
    assert {(token.weight, token.class_, token.direction) for token in record.tokens} == {(1.0, "other", "raise")}
    assert {token.reference for token in record.tokens} == {None}
    assert record.loss == pytest.approx(-sum(math.log(token.base) for token in record.tokens) / len(record.tokens))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_can_be_explained(method: Any) -> None:
    chosen = method.hyperparameters_type.resolve({}, FACTS)
    rows: list[Example] = [row for row in ROWS if isinstance(row, method.example_types)]
    scorer = Scorer(model(), micro_batch_tokens=10_000)
    with scorer.attention():
        records = explain(scorer, method, chosen, render(method, chosen, rows), tokenizer=TOKENIZER, step=0)
    assert len(records) == len(rows)
    assert all(math.isfinite(token.weight) for record in records for token in record.tokens)


def test_one_measurement_serves_other_thresholds_and_neighbours() -> None:
    scorer = Scorer(model(), micro_batch_tokens=10_000)
    first = choose()
    with scorer.attention():
        kept = measure(scorer, NLFT(), first, render(NLFT(), first), tokenizer=TOKENIZER, with_hidden=True)
    for changed in (
        choose(reference_threshold=0.01, cluster="similarity"),
        choose(over_cap="none", cluster="distance"),
    ):
        assert kept.serves(NLFT(), changed)
        assert weigh(kept, NLFT(), changed, step=0) == explained(changed)
    assert not kept.serves(NLFT(), choose(scoring="online"))
    assert not kept.serves(NLFT(), choose(hindsight_weight=1.0))


def test_measurement_without_hidden_states_does_not_serve_neighbours() -> None:
    scorer = Scorer(model(), micro_batch_tokens=10_000)
    with scorer.attention():
        kept = measure(scorer, NLFT(), choose(), render(NLFT(), choose()), tokenizer=TOKENIZER)
    assert kept.serves(NLFT(), choose())
    assert not kept.serves(NLFT(), choose(cluster="distance"))


def test_weighing_fifty_examples_again_takes_under_a_tenth_of_a_second() -> None:
    chosen = NLFTHyperparameters()
    kept = spread(chosen, 0, rows=50, length=200)
    seconds = []
    for _ in range(5):
        started = time.process_time()
        weigh(kept, NLFT(), chosen, step=0)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 0.1
