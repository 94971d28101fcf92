"""Which rows lack what: the questions of the building stages. Free of torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from worker.training.data.examples import Example, NLFTExample
from worker.training.data.reader import Row
from worker.training.data.reasoning import reasons
from worker.training.methods import METHODS
from worker.training.spec import BuildingSettings, MixtureSettings, TrainingSpec

_PLAIN_MIXTURE = MixtureSettings()


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be made.

    Attributes:
        rollout: Rows whose responses are sampled.
        grading: Whether responses that do not say whether they are right are graded.
        rationalization: Whether questions that no response solves are answered with the reference shown.
        judging: Whether wrong responses that nothing criticises are judged.
        mixing: Whether rows are chosen or added.
    """

    rollout: tuple[Row, ...]
    grading: bool
    rationalization: bool
    judging: bool
    mixing: bool

    @property
    def nothing(self) -> bool:
        """Whether the rows are trained as they are."""
        return not (self.rollout or self.grading or self.judging or self.mixing)


def find_needs(spec: TrainingSpec, rows: Sequence[Row]) -> Needs:
    """Return what ``rows`` lack for the spec's method. Only NLFT rows ever lack anything."""
    method = METHODS.get(spec.method)
    guided = method is not None and method.uses_judgments
    rollout = tuple(row for row in rows if isinstance(row.example, NLFTExample) and row.example.answer is None)
    mixing = spec.building.mixture != _PLAIN_MIXTURE and any(isinstance(row.example, NLFTExample) for row in rows)
    # A method that asks for no verdict pays for none, unless rows are chosen by it.
    graded = bool(rollout) or ((guided or mixing) and any(is_ungraded(row.example) for row in rows))
    judged = guided and spec.building.judge is not None
    judged = judged and (graded or any(is_unjudged(row.example) for row in rows))
    rationalized = any(is_rationalized(row.example, spec.building) for row in rollout)
    return Needs(rollout, graded, rationalized, judged, mixing)


def is_rationalized(example: Example, building: BuildingSettings) -> bool:
    """Return whether a question that no sampled response solves is answered with its reference shown."""
    settings = building.rationalization
    if not settings.n or not isinstance(example, NLFTExample) or not example.reference:
        return False
    stands_in = building.settled_mixture.references_as_right and reasons(example.reference)
    return settings.questions == "all" or not stands_in


def is_ungraded(example: Example) -> bool:
    """Return whether nothing tells if the response of a row is right: neither ``correct`` nor a judgment."""
    return (
        isinstance(example, NLFTExample)
        and example.answer is not None
        and example.correct is None
        and example.judgment is None
    )


def is_unjudged(example: Example) -> bool:
    """Return whether a wrong response has a reference to be judged by, and no judgment."""
    return (
        isinstance(example, NLFTExample)
        and example.correct is False
        and example.judgment is None
        and example.reference is not None
    )
