"""The arms of the study, as data. To add an arm, add a line; see README.md."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from worker.training.spec import LoraSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.quality.rollouts import Shown

BASE = "base"
BASE_SHOWN = "base_reference_shown"
UNTRAINED = frozenset((BASE, BASE_SHOWN))
ADAPTER = LoraSettings(r=16, alpha=16, target_modules=["gate_proj", "up_proj", "down_proj"])
_PAPER_ADAPTER = ADAPTER.model_copy(update={"dropout": 0.05})


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train, the same for every data seed.

    Attributes:
        name: Unique; the key of its results.
        method: Training method of the product; empty: the untrained base model, asked with what is ``shown``.
        rows: Name of the builder in ``rows.BUILDERS``.
        questions: How many of the seed's questions.
        rollouts: Own answers drawn to each question.
        shown: What is shown for answers drawn beside these, to questions that none of them solves.
        guided: How many of those are drawn to a question; None: as many as ``rollouts``.
        hyperparameters: What differs from the method's defaults and ``SCHEDULE``.
        adapter: What is trained.
        steps: Optimizer steps; passes over the rows follow from it.
        conditions: What else decides the result in its study, where that is not the same for all runs.
    """

    name: str
    method: str
    rows: str = "rollouts"
    questions: int = 50
    rollouts: int = 1
    shown: Shown = "nothing"
    guided: int | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    adapter: LoraSettings = ADAPTER
    steps: int = 60
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the result of this arm on a base model."""
        return {
            "method": self.method,
            "rows": self.rows,
            "questions": self.questions,
            "rollouts": self.rollouts,
            **({} if self.shown == "nothing" else {"shown": self.shown}),
            **({} if self.guided is None else {"guided": self.guided}),
            "hyperparameters": {**SCHEDULE, **self.hyperparameters},
            "adapter": self._adapter(),
            "steps": self.steps,
            **({"conditions": dict(self.conditions)} if self.conditions else {}),
        }

    def _adapter(self) -> dict[str, Any]:
        # A setting that came later is left out where it changes nothing, so that earlier results stay valid.
        later = {"layers_to_transform": "all", "cache_frozen_hidden_states": False}
        idle = {name for name, value in later.items() if getattr(self.adapter, name) == value}
        return self.adapter.model_dump(mode="json", exclude=idle)

    def fingerprint(self, base_digest: str) -> str:
        """Return a short hash of the settings and the base model: results under another one are not reused."""
        text = json.dumps([self.settings(), base_digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


SCHEDULE: Mapping[str, Any] = MappingProxyType(
    {"batch_size": 4, "learning_rate": 1e-3, "lr_scheduler": "cosine", "warmup_ratio": 0.1}
)

_RIGHT_BY_RESULT = "right_rationalized_final_answer"

# Only what stands before a wrong response's first error is trained, the error itself pushed down or masked.
PREFIX: Mapping[str, Any] = MappingProxyType({"contrast": "reference", "after_error": "mask", "over_cap": "none"})


def _nlft(name: str, rows: str = "rollouts", /, *, questions: int = 50, rollouts: int = 1, **changed: Any) -> Arm:
    return Arm(name, "nlft", rows, questions, rollouts, hyperparameters=changed)


def _supervised(name: str, rows: str, /, *, questions: int = 50, rollouts: int = 1, **changed: Any) -> Arm:
    return Arm(name, "supervised", rows, questions, rollouts, hyperparameters=changed)


def _rationalized(name: str, rows: str = "right_rationalized", /, *, method: str = "nlft", **changed: Any) -> Arm:
    return Arm(name, method, rows, **{"shown": "reference"} | changed)


def _sizes(questions: int) -> tuple[Arm, ...]:
    """Return the arms that are run at sizes other than 50."""
    return (
        _supervised(f"supervised_rollouts_{questions}", "rollouts", questions=questions),
        _supervised(f"supervised_right_{questions}", "right_rollouts", questions=questions),
        _supervised(f"supervised_references_{questions}", "references", questions=questions),
        _nlft(f"nlft_{questions}", questions=questions),
        _nlft(f"nlft_references_{questions}", "references", questions=questions),
        _nlft(f"nlft_references_and_wrong_{questions}", "references_and_wrong", questions=questions),
        _nlft(f"nlft_right_or_references_{questions}", "right_or_references", questions=questions),
        _rationalized(f"nlft_rationalized_{questions}", questions=questions),
    )


_ALL = (
    Arm(BASE, ""),
    # 50 questions, one rollout each
    _nlft("nlft"),
    _supervised("supervised_right", "right_rollouts"),
    _supervised("supervised_rollouts", "rollouts"),
    _supervised("supervised_references", "references"),
    _nlft("nlft_references", "references"),
    _nlft("nlft_references_and_wrong", "references_and_wrong"),
    _nlft("nlft_right", "right_rollouts"),
    Arm("cut_rollouts", "cut"),
    Arm("dynamic_rollouts", "dynamic"),
    Arm("dynamic_references", "dynamic", "references"),
    # other sizes
    *_sizes(25),
    *_sizes(100),
    *_sizes(200),
    # several rollouts a question
    _supervised("supervised_rollouts_k4", "rollouts", rollouts=4),
    _supervised("supervised_right_k4", "right_rollouts", rollouts=4),
    _nlft("nlft_k4", rollouts=4),
    # questions that no rollout solves, taken from the references
    _nlft("nlft_right_or_references", "right_or_references"),
    _nlft("nlft_right_or_references_k4", "right_or_references", rollouts=4),
    # questions that no rollout solves, answered with the reference shown
    _rationalized("nlft_rationalized"),
    _rationalized("nlft_rationalized_and_wrong", "rationalized"),
    _rationalized("supervised_rationalized", method="supervised"),
    _rationalized("nlft_rationalized_k4", rollouts=4),
    _rationalized("nlft_rationalized_and_wrong_k4", "rationalized", rollouts=4),
    _rationalized("supervised_rationalized_k4", method="supervised", rollouts=4),
    _rationalized("nlft_references_and_rationalized", "references_and_rationalized"),
    _rationalized("supervised_references_and_rationalized", "references_and_rationalized", method="supervised"),
    _rationalized("nlft_references_and_rationalized_k4", "references_and_rationalized", rollouts=4),
    # the result is all that is known
    _nlft("nlft_final_answer", "rollouts_final_answer"),
    _nlft("nlft_final_answer_no_judgments", "rollouts_final_answer_without_judgments"),
    _nlft("nlft_final_answer_right", "right_rollouts_final_answer"),
    *(
        _rationalized(f"{method}_final_answer_rationalized{suffix}", rows, method=method, rollouts=k, shown="result")
        for suffix, k in (("", 1), ("_k4", 4))
        for method, rows in (("nlft", _RIGHT_BY_RESULT), ("supervised", "right_rationalized"))
    ),
    *(
        arm
        for k in (4, 16)
        for arm in (
            _rationalized(f"nlft_final_answer_guided_{k}", _RIGHT_BY_RESULT, shown="result", guided=k),
            _rationalized(f"supervised_final_answer_guided_{k}", method="supervised", shown="result", guided=k),
        )
    ),
    _rationalized("nlft_final_answer_rationalized_and_wrong", "rationalized_final_answer", shown="result"),
    # one setting changed
    _nlft("nlft_no_judgments", "rollouts_without_judgments"),
    _nlft("nlft_online", scoring="online"),
    _nlft("nlft_hindsight", hindsight_weight=1.0),
    _nlft("nlft_nll_0", nll_weight=0.0),
    _nlft("nlft_cluster_distance", cluster="distance"),
    _nlft("nlft_cluster_similarity", cluster="similarity"),
    _nlft("nlft_over_cap_none", over_cap="none"),
    _nlft("nlft_over_cap_salient_only", over_cap="salient_only"),
    _nlft("nlft_cap_0", max_salient_fraction=0.0),
    _nlft("nlft_paper_prompts", prompts="paper"),
    _nlft("nlft_contrast_reference", contrast="reference"),
    _nlft("nlft_after_error_mask", after_error="mask"),
    _nlft("nlft_prefix", **PREFIX),
    _nlft("nlft_prefix_masked", **{**PREFIX, "over_cap": "mask_salient"}, max_salient_fraction=0.0),
    _nlft("nlft_k4_balanced", "balanced_rollouts", rollouts=4),
    _nlft("nlft_k4_prefix", rollouts=4, **PREFIX),
    _nlft("nlft_references_and_wrong_prefix", "references_and_wrong", **PREFIX),
    _nlft("nlft_k4_refused_2", rollouts=4, refused_exponent=2.0),
    _nlft("nlft_final_answer_refused_2", "rollouts_final_answer", refused_exponent=2.0),
    _nlft("nlft_references_and_wrong_refused_2", "references_and_wrong", refused_exponent=2.0),
    _nlft("nlft_refused_1", refused_exponent=1.0),
    _nlft("nlft_refused_2", refused_exponent=2.0),
    _nlft("nlft_refused_0", refused_exponent=0.0),
    replace(_nlft("nlft_paper", preset="paper", learning_rate=5e-5), adapter=_PAPER_ADAPTER),
    replace(_nlft("nlft_paper_study_rate", preset="paper"), adapter=_PAPER_ADAPTER),
)

ARMS: Mapping[str, Arm] = MappingProxyType({arm.name: arm for arm in _ALL})
