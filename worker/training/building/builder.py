"""Leads rows through the stages: sampled, graded, mixed, judged."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from worker.training.building.candidates import REFERENCE_INDEX, Candidate, without_duplicates
from worker.training.building.grade import plan_grading
from worker.training.building.judge import Bench, plan_judging
from worker.training.building.keys import stage_keys
from worker.training.building.mixture import is_wrong, mix, most_wrong_per_question
from worker.training.building.needs import find_needs, is_ungraded, is_unjudged
from worker.training.building.parts import GradeRecord, JudgmentRecord, Rollout
from worker.training.building.rationalization import find_shown, find_unsolved, plan_rationalization, reaches_result
from worker.training.building.report import (
    WRONG_LEFT_OUT,
    BuildReport,
    describe_grading,
    describe_judging,
    describe_rationalization,
    describe_rollout,
    describe_rows,
)
from worker.training.building.rollout import plan_rollouts
from worker.training.building.stages import StageRunner
from worker.training.building.verdicts import find_fault
from worker.training.data.examples import NLFTExample
from worker.training.data.screening import check_prompts
from worker.training.errors import StageError
from worker.training.events import MessageEvent
from worker.training.methods.auto import AUTO
from worker.training.spec import result_reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from worker.training.building.needs import Needs
    from worker.training.completions import Completions
    from worker.training.data.reader import Row
    from worker.training.data.rendering import ModelRenderer
    from worker.training.engine.pulse import Pulse
    from worker.training.events import Stage
    from worker.training.model.base_model import LoadedModel
    from worker.training.observer import Observer
    from worker.training.spec import TrainingSpec


@dataclass(frozen=True, slots=True)
class Built:
    """Rows to train. ``is_new`` tells whether they differ from the file's in more than ``correct``."""

    candidates: list[Candidate]
    report: BuildReport
    is_new: bool


@dataclass(slots=True)
class Builder:
    """Builds the rows of one run.

    Attributes:
        workspace: The run's folder.
        spec: What to run.
        loaded: The base model, without an adapter.
        renderer: Of its tokenizer.
        observer: Told of every stage.
        pulse: Of the observer.
        completions: Answers judges and graders behind endpoints.
    """

    workspace: Path
    spec: TrainingSpec
    loaded: LoadedModel
    renderer: ModelRenderer
    observer: Observer
    pulse: Pulse
    completions: Completions

    def build(self, rows: Sequence[Row]) -> Built:
        """Return what the NLFT rows among ``rows`` become; only what a row lacks is made.

        Raises:
            DatasetError: A prompt cannot be rendered, holds special tokens, or leaves no room for a response.
            StageError: A stage leaves nothing to train on, or everything in it failed.
            TrainingInterrupted: The observer asked for an early end.
        """
        needs, keys = find_needs(self.spec, rows), stage_keys(self.spec, rows)
        runner = StageRunner(self.workspace, self.observer, self.pulse)
        candidates = [Candidate(line, 0, example) for line, example in rows if isinstance(example, NLFTExample)]
        report = BuildReport()
        if needs.rollout:
            candidates, report = self._sample(candidates, needs, keys, runner)
        sampled = candidates
        if needs.grading:
            candidates, report = self._grade(candidates, keys, runner, report)
        if needs.rationalization:
            candidates, report = self._rationalize(candidates, needs, keys, runner, report, sampled=sampled)
        mixed, report = self._mix(candidates, needs, report)
        judged = report
        if needs.judging:
            mixed, judged = self._judge(mixed, keys, runner, report)
        report = _with_totals(mixed, judged)
        as_given = [one.place for one in mixed] == [(line, 0) for line, _ in rows]
        is_new = bool(needs.rollout) or judged.judged > 0 or not as_given
        if is_new:
            self._tell(describe_rows(report), report)
        return Built(mixed, report, is_new)

    def _sample(
        self, candidates: Sequence[Candidate], needs: Needs, keys: Mapping[Stage, str], runner: StageRunner
    ) -> tuple[list[Candidate], BuildReport]:
        """Return the candidates with sampled responses in the place of those without one."""
        prompts = check_prompts(needs.rollout, self.renderer, max_tokens=self.loaded.context_length)
        lines = [row.line for row in needs.rollout]
        settings, seed = self.spec.building.rollout, self.spec.seed
        parts = plan_rollouts(lines, prompts, self.loaded, self.renderer, settings=settings, seed=seed)
        rollouts = runner.run("rollout", keys["rollout"], Rollout, parts)
        report = BuildReport(
            questions=len(lines),
            responses=len(rollouts),
            response_tokens=sum(rollout.tokens for rollout in rollouts),
            cut_off=sum(not rollout.finished for rollout in rollouts),
            empty=sum(rollout.finished and not rollout.response for rollout in rollouts),
        )
        self._tell(describe_rollout(report), report, is_warning=bool(report.cut_off or report.empty))
        by_line: defaultdict[int, list[Rollout]] = defaultdict(list)
        for rollout in rollouts:
            by_line[rollout.line].append(rollout)
        return [answered for one in candidates for answered in _answered(one, by_line[one.line])], report

    def _grade(
        self, candidates: Sequence[Candidate], keys: Mapping[Stage, str], runner: StageRunner, report: BuildReport
    ) -> tuple[list[Candidate], BuildReport]:
        """Return the candidates with ``correct`` filled in, without those that are of no use."""
        # A response that was cut off is never trained: it counts as not right, and a paid grader is spared it.
        asked = [one for one in candidates if one.is_whole and one.example.answer_text and is_ungraded(one.example)]
        parts = plan_grading(asked, self.spec.building.grader, self.completions)
        records = runner.run("grading", keys["grading"], GradeRecord, parts)
        grades = {(record.line, record.index): record for record in records}
        threshold = self.spec.building.pass_threshold
        graded = [one.graded(grades.get(one.place), threshold) for one in candidates]
        report = msgspec.structs.replace(
            report,
            graded=len(records),
            ungraded=sum(record.error is not None for record in records),
            **_count_sampled(graded),
        )
        self._tell(describe_grading(report), report, is_warning=report.ungraded > 0)
        failed = {(record.line, record.index) for record in records if record.error}
        whole = [one for one in graded if one.is_whole and one.place not in failed]
        kept = without_duplicates(whole)
        self._require(kept, report)
        return kept, msgspec.structs.replace(report, duplicates=len(whole) - len(kept))

    def _rationalize(
        self,
        candidates: list[Candidate],
        needs: Needs,
        keys: Mapping[Stage, str],
        runner: StageRunner,
        report: BuildReport,
        *,
        sampled: Sequence[Candidate],
    ) -> tuple[list[Candidate], BuildReport]:
        """Return the candidates with right responses, written with the reference shown, to questions without one."""
        building = self.spec.building
        unsolved = find_unsolved(needs.rollout, candidates, building)
        parts = plan_rationalization(unsolved, self.spec, self.loaded, self.renderer)
        rollouts = runner.run("rationalization", keys["rationalization"], Rollout, parts)
        asked_of = {line: Candidate(line, 0, example) for line, example in unsolved}
        written = [asked_of[rollout.line].answered(rollout) for rollout in rollouts]
        whole = [one for one in written if one.is_whole]
        records = runner.run(
            "regrading", keys["regrading"], GradeRecord, plan_grading(whole, building.grader, self.completions)
        )
        graded = [one.graded(grade, building.pass_threshold) for one, grade in zip(whole, records, strict=True)]
        reader = result_reader(building.grader)
        right = [one for one in graded if one.example.correct and reaches_result(one.example.answer_text or "", reader)]
        shown = find_shown(right, sampled)
        kept = without_duplicates(shown)
        answered = {one.line for one in kept} if building.rationalization.replaces_wrong else set()
        left = [one for one in candidates if one.line not in answered]
        report = msgspec.structs.replace(
            report,
            unsolved=len(unsolved),
            rationalized=len(rollouts),
            rationalized_tokens=sum(rollout.tokens for rollout in rollouts),
            rationalized_right=len(right),
            rationalized_bare=len(right) - len(shown),
            rationalizations_added=len(kept),
            wrong_replaced=len(candidates) - len(left),
        )
        self._tell(describe_rationalization(report), report)
        return sorted([*left, *kept], key=lambda one: one.place), report

    def _mix(
        self, candidates: list[Candidate], needs: Needs, report: BuildReport
    ) -> tuple[list[Candidate], BuildReport]:
        mixture = self.spec.building.settled_mixture
        asked = [Candidate(line, 0, row) for line, row in needs.rollout if isinstance(row, NLFTExample)]
        mixed = mix(candidates, mixture, self.spec.seed, asked=asked)
        if mixture.max_wrong_per_question == AUTO and most_wrong_per_question(mixture, candidates) == 0:
            self._tell(WRONG_LEFT_OUT, report)
        added = sum(one.index == REFERENCE_INDEX for one in mixed)
        if candidates and not mixed:
            kinds = Counter("wrong" if is_wrong(one) else "right" for one in candidates)
            raise StageError(
                "grading_failed",
                f"of {kinds['right']} right and {kinds['wrong']} wrong responses the mixture leaves none to train on",
                "mixture",
            )
        left_out = len(candidates) - (len(mixed) - added)
        return mixed, msgspec.structs.replace(report, mixed_out=left_out, references_added=added)

    def _judge(
        self, candidates: list[Candidate], keys: Mapping[Stage, str], runner: StageRunner, report: BuildReport
    ) -> tuple[list[Candidate], BuildReport]:
        """Return the candidates with judgments on the wrong responses that lacked them and got one of use."""
        judge = self.spec.building.judge
        asked = [one for one in candidates if is_unjudged(one.example)]
        if not asked or judge is None:
            return candidates, report
        bench = Bench(self.loaded, self.renderer, self.spec.building.grader, self.completions)
        records = runner.run("judging", keys["judging"], JudgmentRecord, plan_judging(asked, judge, bench))
        judgments: dict[tuple[int, int], str] = {}
        dropped: Counter[str] = Counter()
        for one, record in zip(asked, records, strict=True):
            fault = "failed" if record.error else _fault(one.example, record.text)
            if fault is None:
                judgments[one.line, one.index] = record.text
            else:
                dropped[fault] += 1
        report = msgspec.structs.replace(report, judged=len(records), judgments_dropped=dict(dropped))
        self._tell(describe_judging(report), report, is_warning=bool(dropped))
        return [one.judged(judgments.get(one.place)) for one in candidates], report

    def _require(self, kept: Sequence[Candidate], report: BuildReport) -> None:
        """Refuse to go on with nothing."""
        if kept:
            return
        if report.empty + report.cut_off == report.responses:
            limit = self.spec.building.rollout.max_new_tokens
            raise StageError(
                "rollout_failed",
                f"none of {report.responses} responses can be trained: {report.empty} are empty and {report.cut_off} "
                f"were cut off at {limit} tokens; raise rollout.max_new_tokens or choose another base model",
                "rollout",
            )
        raise StageError("grading_failed", "the grader could score no response that can be trained", "grader")

    def _tell(self, message: str, report: BuildReport, *, is_warning: bool = False) -> None:
        self.observer.emit(MessageEvent("warn" if is_warning else "info", message, msgspec.to_builtins(report)))


def _answered(candidate: Candidate, rollouts: Iterable[Rollout]) -> list[Candidate]:
    """Return a candidate per response sampled for ``candidate``; itself where none was."""
    if candidate.example.answer is not None:
        return [candidate]
    return [candidate.answered(rollout) for rollout in sorted(rollouts, key=lambda rollout: rollout.index)]


def _count_sampled(candidates: Iterable[Candidate]) -> dict[str, int]:
    """Return counts of right ones among the sampled responses, in all and by question."""
    verdicts: defaultdict[int, list[bool]] = defaultdict(list)
    for one in candidates:
        if one.is_made:
            verdicts[one.line].append(bool(one.example.correct))
    return {
        "base_right": sum(map(sum, verdicts.values())),
        "questions_all_right": sum(map(all, verdicts.values())),
        "questions_all_wrong": sum(not any(right) for right in verdicts.values()),
    }


def _fault(example: NLFTExample, judgment: str) -> str | None:
    asked = " ".join(message.text for message in example.prompt)
    return find_fault(judgment, question=asked, response=example.answer_text or "", reference=example.reference or "")


def _with_totals(candidates: Sequence[Candidate], report: BuildReport) -> BuildReport:
    wrong = [one for one in candidates if is_wrong(one)]
    unjudged = sum(one.example.judgment is None for one in wrong)
    return msgspec.structs.replace(report, right=len(candidates) - len(wrong), wrong=len(wrong), unjudged=unjudged)
