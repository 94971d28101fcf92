"""Digests of what a stage's result depends on. Free of torch, so that a worker can fetch by them beforehand."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError

from worker.training.building.needs import find_needs, is_ungraded
from worker.training.data.examples import NLFTExample
from worker.training.data.reader import Row
from worker.training.events import Stage
from worker.training.methods import METHODS
from worker.training.methods.auto import AUTO
from worker.training.methods.prompts import PromptName, Prompts, PromptSet
from worker.training.spec import SelfJudge, SpecModel, TrainingSpec

_FORMAT = 1
_PROMPTS: TypeAdapter[PromptName | PromptSet] = TypeAdapter(Prompts)


def _plain(value: Any) -> Any:
    """Return settings as JSON values."""
    if isinstance(value, SpecModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no place in a key")


_encode = msgspec.json.Encoder(order="deterministic", enc_hook=_plain).encode


def stage_keys(spec: TrainingSpec, rows: Sequence[Row]) -> Mapping[Stage, str]:
    """Return the keys of the stages that ``rows`` (of the training file) go through under ``spec``, in their order.

    Equal keys mean equal results: base model, rows, settings and seed are in them, job and machine are not. A changed
    reference leaves the rollouts' key as it is; a changed judge leaves the grades'.
    """
    needs, building = find_needs(spec, rows), spec.building
    keys: dict[Stage, str] = {}
    if needs.rollout:
        asked = [(line, row.prompt, row.tools) for line, row in needs.rollout if isinstance(row, NLFTExample)]
        keys["rollout"] = _digest(spec.base_model.digest, building.rollout, spec.seed, asked)
    if needs.grading:
        sampled = {row.line for row in needs.rollout}
        graded = [row for row in rows if row.line in sampled or is_ungraded(row.example)]
        keys["grading"] = _digest(keys.get("rollout"), building.grader, graded)
    if needs.rationalization:
        shown = reference_prompts(spec)
        stands_in = building.settled_mixture.references_as_right
        settings = building.rationalization
        keys["rationalization"] = _digest(keys["grading"], building.pass_threshold, settings, stands_in, shown)
        keys["regrading"] = _digest(keys["rationalization"], building.grader)
    if needs.judging:
        model = (spec.base_model.digest, spec.seed) if isinstance(building.judge, SelfJudge) else None
        chosen = (building.pass_threshold, building.mixture, spec.seed)
        verdicts = (keys.get("grading"), keys.get("regrading"))
        keys["judging"] = _digest(verdicts, building.grader, building.judge, model, chosen, rows)
    return keys


def reference_prompts(spec: TrainingSpec) -> PromptName | PromptSet:
    """Return what the run's method shows references with; the default prompts where it shows none."""
    try:
        return _PROMPTS.validate_python(spec.hyperparameters.get("prompts", "default"))
    except ValidationError:
        return "default"  # the method will say what is wrong


def scores_key(base_digest: str) -> str:
    """Return the key under which scores by this base model are kept, whatever was scored."""
    return _digest("scores", base_digest)


def wants_scores(spec: TrainingSpec) -> bool:
    """Return whether a run of ``spec`` scores texts ahead with its bare base model."""
    method = METHODS.get(spec.method)
    if method is None:
        return False
    settled = {name: value for name, value in spec.hyperparameters.items() if value != AUTO}
    try:
        passes = method.passes(method.hyperparameters_type.model_validate(settled))
    except ValidationError:
        return False  # the child will say what is wrong
    return any(scoring_pass.cached and not scoring_pass.renewed for scoring_pass in passes)


def text_digest(*texts: str | None) -> str:
    """Return a short digest of ``texts``, by which a stored record is told to belong to them."""
    return hashlib.sha256(_encode(texts)).hexdigest()[:16]


def _digest(*values: Any) -> str:
    return hashlib.sha256(_encode((_FORMAT, *values))).hexdigest()[:32]
