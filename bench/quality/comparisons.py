"""The tables of the study and what is run for them, as data."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from bench.quality.arms import BASE

if TYPE_CHECKING:
    from collections.abc import Mapping

SEEDS: tuple[int, ...] = (0, 1, 2, 3, 4)
# Settings are chosen on these: other questions, measured on the validation problems.
VALIDATION_SEEDS = (5, 6, 7)


@dataclass(frozen=True, slots=True)
class Table:
    """Arms to show side by side on data ``seeds``, each compared with ``against`` problem by problem."""

    name: str
    title: str
    arms: tuple[str, ...]
    against: str
    seeds: tuple[int, ...] = SEEDS


def _size(questions: int) -> Table:
    """Return the table of a size other than 50."""
    arms = (
        "supervised_rollouts",
        "supervised_right",
        "nlft",
        "nlft_right_or_references",
        "nlft_rationalized",
        "supervised_references",
        "nlft_references",
        "nlft_references_and_wrong",
    )
    return Table(
        f"size{questions}",
        f"{questions} questions, one rollout each",
        (BASE, *(f"{arm}_{questions}" for arm in arms)),
        against=f"nlft_{questions}",
    )


TABLES: Mapping[str, Table] = MappingProxyType(
    {
        table.name: table
        for table in (
            Table(
                "main",
                "50 questions, one rollout each",
                (
                    BASE,
                    "supervised_rollouts",
                    "supervised_right",
                    "nlft",
                    "nlft_right",
                    "nlft_rationalized",
                    "nlft_rationalized_and_wrong",
                    "supervised_rationalized",
                    "nlft_right_or_references",
                    "supervised_references",
                    "nlft_references",
                    "nlft_references_and_wrong",
                    "cut_rollouts",
                    "dynamic_rollouts",
                    "dynamic_references",
                ),
                against="nlft",
            ),
            *(_size(questions) for questions in (25, 100, 200)),
            Table(
                "rollouts4",
                "50 questions, four rollouts each",
                (
                    BASE,
                    "supervised_rollouts_k4",
                    "supervised_right_k4",
                    "nlft_k4",
                    "nlft_rationalized_k4",
                    "supervised_rationalized_k4",
                    "nlft_right_or_references_k4",
                    "nlft_references_and_rationalized_k4",
                    "supervised_references",
                ),
                against="nlft_rationalized_k4",
            ),
            Table(
                "final_answer",
                "50 questions, one rollout each, of the references only the result",
                (
                    BASE,
                    "supervised_rollouts",
                    "supervised_right",
                    "nlft_final_answer",
                    "nlft_final_answer_no_judgments",
                    "nlft_final_answer_rationalized",
                    "supervised_final_answer_rationalized",
                    "nlft_final_answer_guided_4",
                    "supervised_final_answer_guided_4",
                    "nlft_final_answer_guided_16",
                    "supervised_final_answer_guided_16",
                ),
                against="supervised_right",
            ),
            Table(
                "choice",
                "To choose by: validation problems, other questions; 50 questions, one rollout each",
                (
                    "supervised_right",
                    "nlft",
                    "nlft_refused_1",
                    "nlft_refused_2",
                    "nlft_rationalized",
                    "nlft_rationalized_and_wrong",
                    "supervised_rationalized",
                    "nlft_rationalized_k4",
                    "supervised_references",
                    "nlft_references_and_rationalized",
                    "nlft_references_and_rationalized_k4",
                    "nlft_final_answer_rationalized",
                    "supervised_final_answer_rationalized",
                    "nlft_final_answer_guided_4",
                    "supervised_final_answer_guided_4",
                    "nlft_final_answer_guided_16",
                    "supervised_final_answer_guided_16",
                ),
                against="nlft",
                seeds=VALIDATION_SEEDS,
            ),
            Table(
                "ablations",
                "NLFT with one setting changed, 50 questions, one rollout each",
                (
                    "nlft",
                    "nlft_no_judgments",
                    "nlft_online",
                    "nlft_hindsight",
                    "nlft_nll_0",
                    "nlft_cluster_distance",
                    "nlft_cluster_similarity",
                    "nlft_over_cap_none",
                    "nlft_over_cap_salient_only",
                    "nlft_cap_0",
                    "nlft_paper_prompts",
                    "nlft_contrast_reference",
                    "nlft_after_error_mask",
                    "nlft_refused_1",
                    "nlft_refused_2",
                    "nlft_refused_0",
                    "nlft_prefix",
                    "nlft_prefix_masked",
                    "nlft_paper",
                    "nlft_paper_study_rate",
                ),
                against="nlft",
            ),
        )
    }
)

# What is run, in this order, when nothing is chosen: the arms that answer most first, then whole tables. Within a line
# seed by seed, so that every prefix is paired.
QUEUE: tuple[tuple[str, ...], ...] = (
    (BASE,),
    ("nlft_25", "supervised_right_25", "supervised_rollouts_25"),
    ("nlft_right_or_references_25", "supervised_references_25"),
    ("nlft", "supervised_right", "supervised_rollouts", "supervised_references", "nlft_right_or_references"),
    *(TABLES[name].arms for name in ("ablations", "main", "size25", "rollouts4", "final_answer", "size100", "size200")),
)
