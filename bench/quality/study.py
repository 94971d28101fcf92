"""What a study consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.quality.arms import Arm
    from bench.quality.comparisons import Table
    from bench.quality.setting import Setting
    from examples.word_problems.families import Problem


@dataclass(frozen=True, slots=True)
class Study:
    """Arms to compare on problems of one kind.

    Attributes:
        setting: How models are run.
        arms: By name.
        tables: By name; what is shown side by side.
        questions: Returns the training problems of a data seed; fewer questions are the first of these.
        exam: Returns the problems that a data seed is measured on.
    """

    setting: Setting
    arms: Mapping[str, Arm]
    tables: Mapping[str, Table]
    questions: Callable[[int], Sequence[Problem]]
    exam: Callable[[int], Sequence[Problem]]
