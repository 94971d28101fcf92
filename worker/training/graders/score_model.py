"""Graders that ask a model for a number: what is asked, and how the number is read from whatever comes back."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence

from worker.training.completions import Completions, new_request
from worker.training.events import CompletionAnswer, CompletionRequest
from worker.training.graders.samples import Grade, Sample, failed, kind_of
from worker.training.spec import ScoreModelGrader
from worker.training.syntax.templates import TemplateError, render

_FIGURE = r"[-+\u2212]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,2})?"
_SCORE = re.compile(
    rf"(?<![\w.])(?P<value>{_FIGURE})(?![\w])(?:\s?(?:/|out of)\s?(?P<most>{_FIGURE}))?(?P<percent>\s?%)?"
)
_LABELLED = re.compile(
    r"\b(?:score|rating|grade|reward|result)\b[\"'*_`]*(?:\s(?:is|of))?\s?[:=]?[\s\"'*_`$]{0,5}", re.IGNORECASE
)
_JSON_NAMES = ("score", "result", "reward", "rating", "grade")
_LARGEST = 1e300
_READ = 4000  # the number is searched in so many of the last characters of an answer


class UnreadableScoreError(ValueError):
    """An answer that holds no score, or one out of range; the message quotes nothing of it but the number."""


def ask_models(
    graders: Mapping[str, ScoreModelGrader],
    samples: Sequence[Sample],
    completions: Completions | None,
    on_done: Callable[[int, int], None],
) -> dict[str, list[Grade]]:
    """Return a grade per sample for each grader; all questions are asked at once."""
    asked = {name: [_ask(grader, sample) for sample in samples] for name, grader in graders.items()}
    questions = [entry for entries in asked.values() for entry in entries if isinstance(entry, CompletionRequest)]
    answers = completions.complete(questions, on_done) if completions is not None and questions else []
    replies = {answer.id: answer for answer in answers}
    return {
        name: [entry if isinstance(entry, Grade) else _read(replies.get(entry.id), graders[name]) for entry in entries]
        for name, entries in asked.items()
    }


def read_score(text: str, span: tuple[float, float]) -> float:
    """Return the number that ``text`` gives as its score.

    It is looked for, in this order: in a JSON object, behind the last word such as "score:", alone on the last line,
    as the only number there is. ``4/5`` is 4 where the range ends at 5, and 0.8 otherwise.

    Raises:
        UnreadableScoreError: There is none, there are several and none is marked, or it lies outside ``span``.
    """
    score = _find_score(text[-_READ:], span)
    if score is None:
        raise UnreadableScoreError("the model's answer holds no number that could be its score")
    low, high = span
    if not math.isfinite(score) or not low <= score <= high:
        raise UnreadableScoreError(f"the model scored {score:g}, which is not from {low:g} to {high:g}")
    return score


def _find_score(text: str, span: tuple[float, float]) -> float | None:
    from_json = _score_in_json(text)
    if from_json is not None:
        return from_json
    for label in reversed(list(_LABELLED.finditer(text))):
        if (found := _SCORE.match(text, label.end())) is not None:
            return _value(found, span)
    lines = [line.rstrip(" .").strip(" \t*_`$") for line in text.strip().splitlines()]
    if lines and (found := _SCORE.fullmatch(lines[-1])) is not None:
        return _value(found, span)
    values = {_value(found, span) for found in _SCORE.finditer(text)}
    return values.pop() if len(values) == 1 else None


def _score_in_json(text: str) -> float | None:
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        answer = json.loads(text[start : end + 1])
    except (ValueError, RecursionError):
        return None
    for name in _JSON_NAMES:
        value = answer.get(name)
        if isinstance(value, str) and _SCORE.fullmatch(value.strip()):
            return float(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value if abs(value) < _LARGEST else math.inf
    return None


def _value(found: re.Match[str], span: tuple[float, float]) -> float:
    value = float(found["value"].replace("\u2212", "-"))
    if found["percent"]:
        return value if span[1] == 100 else value / 100
    most = float(found["most"]) if found["most"] else span[1]
    return value if most == span[1] or most == 0 else value / most


def _ask(grader: ScoreModelGrader, sample: Sample) -> CompletionRequest | Grade:
    values = sample.values()
    try:
        messages = [{"role": message.role, "content": render(message.content, values)} for message in grader.input]
    except TemplateError as error:
        return failed(kind_of(error), str(error))
    low, high = grader.range
    messages[-1]["content"] += f"\n\nAnswer with one number from {low:g} to {high:g} and nothing else."
    return new_request(grader.model, messages, grader.sampling_params.model_dump(exclude_none=True))


def _read(answer: CompletionAnswer | None, grader: ScoreModelGrader) -> Grade:
    if answer is None:
        return failed("model_grader_server_error", "nothing answers scoring models here")
    if answer.text is None:
        return failed("model_grader_server_error", f"{answer.code}: {answer.error}")
    tokens = {grader.model: answer.tokens or 0}
    try:
        return Grade(read_score(answer.text, grader.range), tokens=tokens)
    except UnreadableScoreError as error:
        return failed("model_grader_parse_error", str(error), tokens)
