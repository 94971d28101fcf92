"""What every registered method must keep. A new one is covered by its line in the registry; nothing here names any."""

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic import ValidationError

from tests.fixtures.tiny_models import build_tokenizer
from tests.training.builders import FACTS, question
from tests.training.models import adapt, gradients, random_model
from worker.training.data.examples import ChatExample, CompletionExample, Example, Message, NLFTExample
from worker.training.data.rendering import ModelRenderer
from worker.training.engine.optimizer import AdapterOptimizer
from worker.training.engine.prepared import PreparedExample
from worker.training.engine.scoring import Scorer
from worker.training.engine.step import Stepper
from worker.training.methods import METHODS
from worker.training.methods.auto import AUTO, RunFacts
from worker.training.methods.base import Hyperparameters, Method, find_problems
from worker.training.spec import LoraSettings

ROWS: Mapping[type[Example], list[Example]] = {
    NLFTExample: [
        NLFTExample(question("1 + 2?"), response="It is 3.", reference="3", correct=True),
        NLFTExample(question("2 + 2?"), response="It is 5.", reference="4", judgment="It is 4.", correct=False),
        NLFTExample(question("3 + 2?"), response="Six.", reference="5", correct=False),
    ],
    ChatExample: [
        ChatExample([*question("1 + 2?"), Message("assistant", "3")]),
        ChatExample([*question("2 + 2?"), Message("assistant", "4"), *question("Sure?"), Message("assistant", "Yes.")]),
    ],
    CompletionExample: [CompletionExample("1 + 2 = ", "3"), CompletionExample("The sky is ", "blue today")],
}
RENDERER = ModelRenderer(build_tokenizer())
METHOD_ROWS = [(method, kind) for method in METHODS.values() for kind in method.example_types]


def variants(method: Method) -> list[dict[str, Any]]:
    """Every choice among fixed words that the method offers, one at a time, beside the defaults."""
    fields = method.hyperparameters_type.model_fields.items()
    choices = [(name, choice) for name, field in fields for choice in _words(field.annotation)]
    return [{}, *({name: choice} for name, choice in choices)]


def _words(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [word for word in get_args(annotation) if word != AUTO]
    return []


METHOD_VARIANTS = [(method, kind, values) for method, kind in METHOD_ROWS for values in variants(method)]


def name_of(value: object) -> str:
    if isinstance(value, dict):
        return ",".join(f"{name}={choice}" for name, choice in value.items()) or "defaults"
    return value.__name__ if isinstance(value, type) else type(value).__name__


every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_variant = pytest.mark.parametrize(("method", "kind", "values"), METHOD_VARIANTS, ids=name_of)
every_method_and_row = pytest.mark.parametrize(("method", "kind"), METHOD_ROWS, ids=name_of)


def choose(method: Method, **values: Any) -> Hyperparameters:
    return method.hyperparameters_type.resolve(values, FACTS)


def prepare(method: Method, kind: type[Example], chosen: Hyperparameters) -> list[PreparedExample]:
    return [PreparedExample(line, method.render(row, RENDERER, chosen)) for line, row in enumerate(ROWS[kind], start=1)]


@every_method
def test_docstring_links_the_paper(method: Method) -> None:
    assert method.paper in (type(method).__doc__ or "")
    assert method.summary.endswith(".")


@every_method
def test_hyperparameters_have_a_described_schema_and_refuse_unknown_names(method: Method) -> None:
    schema = json.loads(json.dumps(method.hyperparameters_type.model_json_schema()))
    assert all(field["description"] for field in schema["properties"].values())
    with pytest.raises(ValidationError, match="no_such_setting"):
        choose(method, no_such_setting=1)


@every_method
@pytest.mark.parametrize("rows", [1, 50, 100_000])
@pytest.mark.parametrize("parameters", [1_000, 8_000_000_000])
def test_auto_resolves_to_valid_values_that_resolve_to_themselves(method: Method, rows: int, parameters: int) -> None:
    facts = RunFacts(rows, parameters, context_length=512)
    everything = dict.fromkeys(method.hyperparameters_type.model_fields, "auto")
    chosen = method.hyperparameters_type.resolve(everything, facts)
    assert method.hyperparameters_type.resolve(chosen.model_dump(mode="json"), FACTS) == chosen
    assert isinstance(method.adapter(chosen), LoraSettings)


@every_method
def test_passes_are_named_once_and_the_main_one_is_trained(method: Method) -> None:
    passes = {scoring_pass.name: scoring_pass for scoring_pass in method.passes(choose(method))}
    assert len(passes) == len(method.passes(choose(method)))
    assert passes[method.main_pass].with_grad


@every_variant
def test_complete_rows_are_accepted_and_every_pass_is_rendered(
    method: Method, kind: type[Example], values: Mapping[str, Any]
) -> None:
    chosen = choose(method, **values)
    assert [find_problems(method, row, 1) for row in ROWS[kind]] == [()] * len(ROWS[kind])
    rendered = [example.rendered for example in prepare(method, kind, chosen)]
    main = next(p.sequence for p in method.passes(chosen) if p.name == method.main_pass)
    assert all(main in example.sequences for example in rendered)
    for scoring_pass in method.passes(chosen):
        assert any(scoring_pass.sequence in example.sequences for example in rendered), scoring_pass.name
    assert len({frozenset(example.values) for example in rendered}) == 1


@every_variant
def test_loss_is_finite_differentiable_and_independent_of_the_batch(
    method: Method, kind: type[Example], values: Mapping[str, Any]
) -> None:
    chosen = choose(method, **values)
    examples = prepare(method, kind, chosen)
    adapted = adapt(random_model("llama"))
    scorer = Scorer(adapted, micro_batch_tokens=10_000)
    passes = method.passes(chosen)
    with scorer.attention():
        scorer.fill_cache(examples, passes, lambda _done, _total: None)
        batch, _ = scorer.score(examples, passes)
        reversed_batch, _ = scorer.score(examples[::-1], passes)
        alone = torch.cat([method.loss(scorer.score([one], passes)[0], chosen).losses for one in examples])
    output = method.loss(batch, chosen)
    losses = output.losses
    assert losses.shape == (len(examples),)
    assert torch.isfinite(losses).all()
    assert all(value.shape == () and not value.requires_grad for value in output.metrics.values())
    if output.token_weights is not None:
        assert output.token_weights.shape == batch.passes[method.main_pass].logprobs.shape
        assert not output.token_weights.requires_grad
    torch.testing.assert_close(method.loss(reversed_batch, chosen).losses.flip(0), losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, losses, rtol=1e-4, atol=1e-5)
    torch.autograd.backward(losses.sum())
    assert all(parameter.grad is None for parameter in adapted.parameters() if not parameter.requires_grad)
    assert any(gradient.abs().sum() > 0 for gradient in gradients(adapted).values())


@every_method_and_row
def test_training_makes_progress(method: Method, kind: type[Example]) -> None:
    # A loss whose weights grow with the probability may rise while its tokens get likelier.
    chosen = choose(method, learning_rate=0.05, warmup_ratio=0.0, lr_scheduler="constant")
    examples = prepare(method, kind, chosen)
    adapted = adapt(random_model("llama"))
    scorer = Scorer(adapted, micro_batch_tokens=10_000)
    optimizer = AdapterOptimizer(adapted, chosen, total_steps=12)
    stepper = Stepper(scorer, method, chosen)
    with scorer.attention():
        scorer.fill_cache(examples, method.passes(chosen), lambda _done, _total: None)
        results = [stepper.train(examples, optimizer, step, lambda: None) for step in range(1, 13)]
    first, last = results[0], results[-1]
    assert last.loss < first.loss * 0.97 or last.accuracy > first.accuracy


@every_method
def test_probe_speaks_about_rows_of_the_first_kind(method: Method) -> None:
    chosen, probe = choose(method), method.probe
    if probe is None:
        return
    rows = [
        PreparedExample(line, probe.render(row, RENDERER, chosen))
        for line, row in enumerate(ROWS[method.example_types[0]], start=1)
    ]
    scorer = Scorer(adapt(random_model("llama")), micro_batch_tokens=10_000)
    with scorer.attention():
        finding = probe.diagnose(scorer.measure(rows, probe.passes(chosen)), chosen)
    assert finding.level in {"info", "warn"}
    assert json.loads(json.dumps(dict(finding.data))) == finding.data
