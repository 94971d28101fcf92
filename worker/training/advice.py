"""What the rows of a job will not teach, said before time is spent on them. Loads neither torch nor numpy."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from worker.training.data.examples import ChatExample, CompletionExample, Example, NLFTExample
from worker.training.data.reasoning import lacks_steps, mostly_lack_steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.training.data.reader import Row

_SHOWN_LINES = 20
_FEWEST_ROWS = 10
_MOST_CUT_OFF = 0.1
_NEARLY_ALL = 0.9

Level = Literal["info", "warn"]


@dataclass(frozen=True, slots=True)
class Rollouts:
    """What sampling from the base model gave: responses in all, right ones, and those cut off at their longest."""

    sampled: int
    right: int
    cut_off: int

    @property
    def accuracy(self) -> float | None:
        """Share of right responses; None: none were sampled."""
        return self.right / self.sampled if self.sampled else None


@dataclass(frozen=True, slots=True)
class Advice:
    """One finding.

    Attributes:
        code: For programs.
        level: ``warn`` where training will suffer.
        message: For the job's owner: what is so, and what to do.
        data: Figures, and up to twenty 1-based ``lines`` of the training file (``validation_lines``: of the other).
    """

    code: str
    level: Level
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as an event's data: the code as ``advice``, beside the figures."""
        return {"advice": self.code, **self.data}


def advise(rows: Sequence[Row], held_out: Sequence[Row] = (), rollouts: Rollouts | None = None) -> list[Advice]:
    """Return what deserves a look in these rows; nothing where all is well.

    Args:
        rows: Training rows, as complete as they are at this point; several may come from one line.
        held_out: Validation rows.
        rollouts: Of responses that the base model wrote for the rows.
    """
    found = list(_advise_on_size(rows))
    found += _advise_on_questions(rows)
    found += _advise_on_overlap(rows, held_out)
    if rollouts is not None and rollouts.sampled:
        found += _advise_on_rollouts(rollouts)
    answered = [row for row in rows if isinstance(row.example, NLFTExample)]
    if answered:
        found += _advise_on_references(answered)
        found += _advise_on_responses(answered)
    return found


def _advise_on_size(rows: Sequence[Row]) -> Iterator[Advice]:
    if len(rows) < _FEWEST_ROWS:
        yield Advice(
            "few_rows",
            "warn",
            f"Only {len(rows)} training row(s): the adapter will learn them by heart. Twenty-five or more are a start.",
            {"rows": len(rows)},
        )


def _advise_on_questions(rows: Sequence[Row]) -> Iterator[Advice]:
    lines: dict[Any, set[int]] = defaultdict(set)
    for row in rows:
        lines[_question(row.example)].add(row.line)
    repeated = sorted(line for found in lines.values() if len(found) > 1 for line in sorted(found)[1:])
    if repeated:
        yield Advice(
            "duplicate_questions",
            "info" if len(repeated) < len(rows) / 10 else "warn",
            f"{len(repeated)} line(s) ask what an earlier line asks; a question that is repeated counts more.",
            _placed(repeated),
        )


def _advise_on_overlap(rows: Sequence[Row], held_out: Sequence[Row]) -> Iterator[Advice]:
    trained = {_question(row.example) for row in rows}
    shared = [row.line for row in held_out if _question(row.example) in trained]
    if shared:
        yield Advice(
            "validation_in_training",
            "warn",
            f"{len(shared)} of {len(held_out)} validation rows are also trained: accuracy and loss on them say nothing "
            "about new questions. Take them out of one of the files.",
            {"count": len(shared), "validation_lines": shared[:_SHOWN_LINES]},
        )


def _advise_on_rollouts(rollouts: Rollouts) -> Iterator[Advice]:
    figures = {"sampled": rollouts.sampled, "right": rollouts.right, "cut_off": rollouts.cut_off}
    told = f"{rollouts.right} of {rollouts.sampled} sampled responses are right"
    if rollouts.right == rollouts.sampled:
        yield Advice(
            "base_knows_all",
            "warn",
            f"All {rollouts.sampled} sampled responses are right: the base model can do this already, there is little "
            "to learn here. Use harder questions.",
            figures,
        )
    elif rollouts.right == 0:
        yield Advice(
            "base_knows_nothing",
            "warn",
            f"None of {rollouts.sampled} sampled responses is right: either the questions are beyond the base model or "
            "the grader does not find its answers. Look at the built rows, and give worked references: they are "
            "trained where no response is right, unless mixture.references_as_right is false.",
            figures,
        )
    elif rollouts.right / rollouts.sampled > _NEARLY_ALL:
        yield Advice("base_knows_most", "info", f"{told}: there is little left to learn here.", figures)
    if rollouts.cut_off > _MOST_CUT_OFF * rollouts.sampled:
        yield Advice(
            "responses_cut_off",
            "warn",
            f"{rollouts.cut_off} of {rollouts.sampled} sampled responses were cut off before their end; raise "
            "rollout.max_new_tokens.",
            figures,
        )


def _advise_on_references(rows: Sequence[Row]) -> Iterator[Advice]:
    by_question: dict[Any, set[str]] = defaultdict(set)
    for row in rows:
        if isinstance(row.example, NLFTExample) and row.example.reference is not None:
            by_question[_question(row.example)].add(row.example.reference)
    references = Counter(reference for found in by_question.values() for reference in found)
    if not references:
        return
    most = references.most_common(1)[0][1]
    if len(by_question) > 1 and most > _NEARLY_ALL * len(by_question):
        yield Advice(
            "identical_references",
            "warn",
            f"{most} of {len(by_question)} questions have the same reference: the model can learn to give that answer "
            "without reading the question.",
            {"questions": len(by_question), "same": most},
        )
    conflicting = [question for question, found in by_question.items() if len(found) > 1]
    if conflicting:
        lines = sorted({row.line for row in rows if _question(row.example) in set(conflicting)})
        yield Advice(
            "conflicting_references",
            "warn",
            f"{len(conflicting)} question(s) have different references on different lines; one is likely wrong.",
            _placed(lines),
        )


def _advise_on_responses(rows: Sequence[Row]) -> Iterator[Advice]:
    verdicts = Counter(_verdict(row.example) for row in rows)
    right, wrong = verdicts[True], verdicts[False]
    if right and not wrong and not verdicts[None]:
        yield Advice(
            "all_right",
            "warn",
            f"All {right} responses are right: nothing shows the model what to avoid, and NLFT has little over "
            "supervised training. Sample responses from the base model, wrong ones included.",
            {"right": right, "wrong": 0},
        )
    if wrong and not right and not verdicts[None]:
        yield Advice(
            "all_wrong",
            "warn",
            f"All {wrong} responses are wrong: no right response shows the model what to do. Add right ones, or train "
            "the references as well (mixture.references_as_right).",
            {"right": 0, "wrong": wrong},
        )
    unjudged = [row.line for row in rows if _verdict(row.example) is False and not _judgment(row.example)]
    if unjudged:
        yield Advice(
            "wrong_without_judgment",
            "info",
            f"{len(unjudged)} of {wrong} wrong responses have no judgment: none of their tokens is lowered. NLFT "
            "weighs them by the reference alone, CUT leaves them out.",
            _placed(unjudged),
        )

    yield from _advise_on_results(rows, wrong)


def _advise_on_results(rows: Sequence[Row], wrong: int) -> Iterator[Advice]:
    """Warn where references hold a result and wrong responses a way to one: such references cannot tell which step."""
    if wrong and mostly_lack_steps([row.example for row in rows]):
        yield Advice(
            "references_without_steps",
            "warn",
            "The references hold a result only, the responses reason: in our measurements NLFT with such references "
            "ended below the untrained model. Give worked references, or train right responses alone "
            "(method supervised, mixture.max_wrong_per_question 0).",
            _placed([row.line for row in rows if lacks_steps(row.example)]),
        )


def _placed(lines: Sequence[int]) -> dict[str, Any]:
    return {"count": len(lines), "lines": list(dict.fromkeys(lines))[:_SHOWN_LINES]}


def _question(example: Example) -> Any:
    """Return what tells one question from another."""
    if isinstance(example, CompletionExample):
        return example.prompt
    messages = example.prompt if isinstance(example, NLFTExample) else _before_answer(example)
    return tuple((message.role, message.text.strip()) for message in messages)


def _before_answer(example: ChatExample) -> Sequence[Any]:
    last = example.messages[-1]
    return example.messages[:-1] if last.role == "assistant" else example.messages


def _verdict(example: Example) -> bool | None:
    if not isinstance(example, NLFTExample) or example.answer is None:
        return None
    return False if example.correct is None and example.judgment is not None else example.correct


def _judgment(example: Example) -> str | None:
    return example.judgment if isinstance(example, NLFTExample) else None
