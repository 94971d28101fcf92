"""What the building stages made of the rows, in counts and in words. Free of torch."""

import msgspec

WRONG_LEFT_OUT = (
    "The references hold results only, which cannot tell a wrong step from a right one: wrong responses are left out "
    "(mixture.max_wrong_per_question auto)."
)


class BuildReport(msgspec.Struct, frozen=True):
    """Counts of a building.

    Attributes:
        questions: Rows without a response.
        responses: Responses sampled for them; ``cut_off`` and ``empty`` ones are not trained.
        response_tokens: Tokens of the sampled responses in all.
        base_right: Sampled responses that are right, those that were cut off included.
        questions_all_right: Questions all of whose responses are right.
        questions_all_wrong: Questions none of whose responses is right.
        duplicates: Responses that repeat another to the same question.
        graded: Responses graded, sampled or given; ``ungraded`` ones got no score and are not trained.
        unsolved: Questions without a right response that were answered with the reference shown (STaR).
        rationalized: Responses written to them; ``rationalized_right`` are right and reach their result, of which
            ``rationalized_bare`` only name it and are left out; ``rationalizations_added`` without repetitions, in the
            place of ``wrong_replaced`` wrong ones. ``rationalized_tokens`` are theirs in all.
        judged: Judgments asked for; ``judgments_dropped`` counts those not used, by reason (``empty``,
            ``says_correct``, ``nothing_usable``, ``failed``). Their rows are trained without a judgment.
        mixed_out: Rows that the mixture left out; ``references_added`` is what it brought in.
        right: Rows with a right response among those built, as far as anybody knows.
        wrong: Rows with a wrong one; ``unjudged`` of them have no judgment.
        unfit: Built rows that could not be rendered, hold special tokens or are too long.
    """

    questions: int = 0
    responses: int = 0
    response_tokens: int = 0
    cut_off: int = 0
    empty: int = 0
    base_right: int = 0
    questions_all_right: int = 0
    questions_all_wrong: int = 0
    duplicates: int = 0
    graded: int = 0
    ungraded: int = 0
    unsolved: int = 0
    rationalized: int = 0
    rationalized_tokens: int = 0
    rationalized_right: int = 0
    rationalized_bare: int = 0
    rationalizations_added: int = 0
    wrong_replaced: int = 0
    judged: int = 0
    judgments_dropped: dict[str, int] = msgspec.field(default_factory=dict)
    mixed_out: int = 0
    references_added: int = 0
    right: int = 0
    wrong: int = 0
    unjudged: int = 0
    unfit: int = 0

    @property
    def rows(self) -> int:
        """Rows that the stages have left, before any was found unfit."""
        return self.right + self.wrong

    @property
    def generated_tokens(self) -> int:
        """Tokens of all responses, sampled plainly or with the reference shown."""
        return self.response_tokens + self.rationalized_tokens

    @property
    def base_accuracy(self) -> float | None:
        """Share of right ones among the sampled responses that were graded, in [0, 1]; None without any."""
        return self.base_right / self.responses if self.responses else None


def describe_rollout(report: BuildReport) -> str:
    """Return a sentence about the sampled responses."""
    mean = report.response_tokens / max(1, report.responses)
    faults = [f"{report.cut_off} cut off at the limit"] * bool(report.cut_off) + [f"{report.empty} empty"] * bool(
        report.empty
    )
    lost = f"; left out: {', '.join(faults)}" if faults else ""
    return f"{report.responses} responses to {report.questions} questions, {mean:.0f} tokens on average{lost}."


def describe_grading(report: BuildReport) -> str:
    """Return a sentence about the grades."""
    asked = f" The base model answers {report.base_accuracy:.1%} right." if report.base_accuracy is not None else ""
    failed = f" {report.ungraded} could not be graded and are left out." if report.ungraded else ""
    return f"{report.graded} responses graded.{asked}{failed}"


def describe_rationalization(report: BuildReport) -> str:
    """Return a sentence about the responses that were written with the reference shown."""
    if not report.unsolved:
        return "Every question has a right response: none is answered with the reference shown."
    bare = f" ({report.rationalized_bare} that only name the result are left out)" if report.rationalized_bare else ""
    replaced = f" in the place of {report.wrong_replaced} wrong ones" if report.wrong_replaced else ""
    return (
        f"{report.rationalized} responses to the {report.unsolved} question(s) without a right one, written with the "
        f"reference shown: {report.rationalized_right} right{bare}, {report.rationalizations_added} different ones "
        f"added{replaced}."
    )


def describe_judging(report: BuildReport) -> str:
    """Return a sentence about the judgments."""
    dropped = sum(report.judgments_dropped.values())
    if not dropped:
        return f"{report.judged} judgments written."
    reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in report.judgments_dropped.items())
    return (
        f"{report.judged - dropped} of {report.judged} judgments written; {dropped} dropped: {reasons}. "
        "Their rows are trained without a judgment."
    )


def describe_rows(report: BuildReport) -> str:
    """Return a sentence about the rows that were built."""
    kinds = f"{report.right} right, {report.wrong} wrong"
    if report.unjudged:
        kinds += f" ({report.unjudged} without a judgment)"
    notes = [
        f"{count} {what}"
        for count, what in (
            (report.references_added, "references added"),
            (report.duplicates, "duplicates left out"),
            (report.mixed_out, "left out by the mixture"),
        )
        if count
    ]
    return f"{report.rows} rows built: {kinds}{'; ' if notes else ''}{', '.join(notes)}."
