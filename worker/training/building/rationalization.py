"""Answers the questions that no response solves once more, with the reference shown.

Rationalization of STaR (Zelikman et al. 2022, https://arxiv.org/abs/2203.14465, section 3.2): what the model writes
with the answer before its eyes is trained as a response to the plain question. Shown a result, a model often copies it,
or writes any steps and then the result: a response must show a way where one is to be seen, and its way must end there.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from worker.training.building.equations import find_equations
from worker.training.building.keys import reference_prompts
from worker.training.building.needs import is_rationalized
from worker.training.building.rollout import plan_rollouts
from worker.training.data.examples import NLFTExample
from worker.training.data.reasoning import reasons
from worker.training.data.rendering import RenderingError
from worker.training.graders import find_answer
from worker.training.methods.prompts import show_reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from worker.training.building.candidates import Candidate
    from worker.training.building.parts import Rollout
    from worker.training.building.stages import Part
    from worker.training.data.reader import Row
    from worker.training.data.rendering import ModelRenderer
    from worker.training.model.base_model import LoadedModel
    from worker.training.spec import BuildingSettings, FinalAnswerGrader, TrainingSpec


def find_unsolved(
    sampled: Sequence[Row], candidates: Sequence[Candidate], building: BuildingSettings
) -> list[tuple[int, NLFTExample]]:
    """Return the rows to be answered with their reference shown: ``sampled`` for in vain, by ``candidates``."""
    solved = {one.line for one in candidates if one.example.correct}
    return [
        (line, example)
        for line, example in sampled
        if line not in solved and isinstance(example, NLFTExample) and is_rationalized(example, building)
    ]


def plan_rationalization(
    unsolved: Sequence[tuple[int, NLFTExample]], spec: TrainingSpec, loaded: LoadedModel, renderer: ModelRenderer
) -> list[Part[Rollout]]:
    """Return the parts of the stage; a question whose prompt leaves no room beside its reference is passed over."""
    shown = ((line, _show(example, spec, renderer)) for line, example in unsolved)
    fit = [(line, prompt) for line, prompt in shown if prompt is not None and len(prompt) < loaded.context_length]
    rollout, count = spec.building.rollout, spec.building.rationalization.n
    return plan_rollouts(
        [line for line, _ in fit],
        [prompt for _, prompt in fit],
        loaded,
        renderer,
        settings=rollout.model_copy(update={"n": count}),
        seed=spec.seed,
        first_index=rollout.n,
    )


def reaches_result(response: str, grader: FinalAnswerGrader) -> bool:
    """Return whether the calculations of ``response`` hold and the last one comes to its result; true without any."""
    equations = list(find_equations(response))
    if not equations:
        return True
    answer = find_answer(response, grader)
    concluded = None if answer is None or answer.number is None else answer.number.value
    return all(equation.holds for equation in equations) and concluded == equations[-1].claims


def shows_way(response: str, others: Sequence[str]) -> bool:
    """Return whether ``response`` says how it comes to its result, as far as any of ``others`` does.

    Several words do, and so does half as many calculations as any other makes.
    """
    if reasons(response) or not any(map(reasons, others)):
        return True
    calculations = len(list(find_equations(response)))
    return calculations > 0 and 2 * calculations >= max(len(list(find_equations(other))) for other in others)


def find_shown(right: Iterable[Candidate], sampled: Iterable[Candidate]) -> list[Candidate]:
    """Return those of ``right`` that show a way where the question's reference does, or any response ``sampled``."""
    others: defaultdict[int, list[str]] = defaultdict(list)
    for one in sampled:
        others[one.line].append(one.example.answer_text or "")
    return [
        one
        for one in right
        if shows_way(one.example.answer_text or "", [one.example.reference or "", *others[one.line]])
    ]


def _show(example: NLFTExample, spec: TrainingSpec, renderer: ModelRenderer) -> NDArray[np.int32] | None:
    """Return the prompt [T] with the reference shown; None where the chat template refuses it."""
    guided = show_reference(example, reference_prompts(spec), example.reference or "")
    try:
        return renderer.prompt(guided, example.tools)
    except RenderingError:
        return None
