"""The weights of docs/nlft.md in numpy, written from that page alone: what a client would recompute from a record."""

import numpy as np
from numpy.typing import NDArray

from worker.training.methods.nlft import NLFTHyperparameters
from worker.training.saliency_record import SaliencyRecord

# The page: a value that equals its threshold up to float32's precision is not above it.
MARGIN = 1 + 1e-6
Floats = NDArray[np.float64]


def recompute(record: SaliencyRecord, settings: NLFTHyperparameters) -> tuple[Floats, list[str]]:
    """Return every token's weight and class; which tokens are neighbours is taken from the record."""
    reference = np.array([token.reference for token in record.tokens], dtype=float)
    beside = np.array([token.class_ == "neighbour" for token in record.tokens])
    if record.example.correct:
        salient = reference > settings.reference_threshold * MARGIN
        weights = weigh_right(reference, salient, beside, settings)
    else:
        salient, ratio = find_salient_in_wrong(record, reference, settings)
        weights = weigh_wrong(reference, ratio, salient, beside, settings)
    classes = ["salient" if s else "neighbour" if n else "other" for s, n in zip(salient, beside, strict=True)]
    return weights, classes


def weigh_right(
    reference: Floats, salient: NDArray[np.bool_], beside: NDArray[np.bool_], settings: NLFTHyperparameters
) -> Floats:
    tau = settings.reference_threshold
    with np.errstate(invalid="ignore", divide="ignore"):
        raised = 1 + ((reference - tau) / (1 - tau)) ** settings.salient_exponent
    exponent = np.where(beside, settings.neighbour_exponent, settings.other_exponent)
    return np.where(salient, raised, (reference / tau) ** exponent)


def find_salient_in_wrong(
    record: SaliencyRecord, reference: Floats, settings: NLFTHyperparameters
) -> tuple[NDArray[np.bool_], Floats]:
    """Return which tokens are salient, and j / b."""
    judgment = np.array([token.judgment or 0.0 for token in record.tokens])
    compared = "base" if settings.scoring == "online" else "frozen_base"
    # A row without a judgment is compared with nothing: no token of it is salient.
    base = np.array([getattr(token, compared) or 1.0 for token in record.tokens])
    ratio = judgment / base
    least = settings.judgment_ratio_threshold * MARGIN
    salient = (judgment / reference > least) & (judgment > settings.judgment_probability_floor * MARGIN)
    if settings.contrast == "base_and_reference":
        salient &= ratio > least
    return salient, ratio


def weigh_wrong(
    reference: Floats,
    ratio: Floats,
    salient: NDArray[np.bool_],
    beside: NDArray[np.bool_],
    settings: NLFTHyperparameters,
) -> Floats:
    lowered = 2 / (1 + np.exp(-(ratio - settings.scale_center)))
    others = np.where(beside, 0.0, reference**settings.refused_exponent)
    if settings.after_error == "mask":
        others = np.where(np.cumsum(salient) > 0, 0.0, others)
    allowed = max(settings.max_salient_fraction * len(reference), settings.max_salient_tokens)
    if salient.sum() > allowed * MARGIN:
        others = others * (settings.over_cap != "salient_only")
        lowered = lowered * (settings.over_cap != "mask_salient")
    return np.where(salient, lowered, others)
