"""Who competes where. A line here is all it takes to add one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Task = Literal["products", "supervised", "nlft_cached", "nlft_online", "scoring", "two_prompts"]
# Beside the product the second point has the peers at their better settings alone, to keep a run short.
_NOT_DEFAULT = ("bench", "gpu-0.5b", "gpu-8b")
_USUAL = ("bench", "default", "gpu-0.5b", "gpu-8b")
_SUPERVISED = (*_USUAL, "instructions")  # what that point asks about has to do with long prompts alone
_BFLOAT16 = {"precision": "bfloat16"}
_UPPER = {"adapted_share": 0.25}
_PLAIN_STEPS = {"gradient_checkpointing": False}


@dataclass(frozen=True, slots=True)
class Variant:
    """A contestant.

    Attributes:
        name: Short, for the command line and the records.
        title: For tables.
        task: What a step of it achieves, which decides the operations it needs.
        entry: ``module:function`` below ``bench.trainer``; takes a point and a pace.
        options: Further arguments of that function.
        points: Names of the points where it runs.
        peak: Name of the variant that measures the limit for its precision.
        once: Takes one step in all, since it is too slow to be repeated; good for its memory and for a rough time.
        environment: Name of the Python environment that it has to itself, for its packages do not agree with the
            product's; see ``environments``.
    """

    name: str
    title: str
    task: Task
    entry: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    points: tuple[str, ...] = _USUAL
    peak: str = "products"
    once: bool = False
    environment: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether the product runs it."""
        return self.entry.startswith("ours:")

    @property
    def shares_prefixes(self) -> bool:
        """Whether what the sequences of a pass begin with alike is computed once, as the product does."""
        return self.is_ours and bool(self.options.get("shares_prefixes", True))

    @property
    def lends_prefixes(self) -> bool:
        """Whether what scored sequences begin with is taken from the training pass, as the product does."""
        return self.shares_prefixes and bool(self.options.get("lends_prefixes", True))

    @property
    def adapted_share(self) -> float:
        """Share of the decoder layers, from the top, that have an adapter."""
        return float(self.options.get("adapted_share", 1.0))

    @property
    def keeps_hidden_states(self) -> bool:
        """Whether what leaves the layers below is known from an earlier step."""
        return bool(self.options.get("keeps_hidden_states", False))


def _nlft(**settings: Any) -> dict[str, Any]:
    return {"method": "nlft", "settings": settings}


def _sft(**settings: Any) -> dict[str, Any]:
    return {"settings": settings}


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("products", "matrix products of the step's shapes", "products", "gemm:measure", points=_SUPERVISED),
        Variant(
            "products_bf16",
            "matrix products of the step's shapes, bfloat16",
            "products",
            "gemm:measure",
            _BFLOAT16,
            points=("bench",),
        ),
        Variant(
            "supervised", "ours, supervised", "supervised", "ours:train", {"method": "supervised"}, points=_SUPERVISED
        ),
        Variant(
            "supervised_apart",
            "ours, supervised, every row with a beginning of its own",
            "supervised",
            "ours:train",
            {"method": "supervised", "shares_prefixes": False},
            points=("instructions",),
        ),
        Variant(
            "supervised_rows",
            "ours, supervised, row by row",
            "supervised",
            "ours:train",
            {"method": "supervised", "row_by_row": True},
            points=("bench",),
        ),
        Variant(
            "supervised_upper",
            "ours, supervised, the top quarter of the layers adapted",
            "supervised",
            "ours:train",
            {"method": "supervised", **_UPPER},
            points=("bench",),
        ),
        Variant(
            "supervised_kept",
            "the same, hidden states below kept from the first step",
            "supervised",
            "ours:train",
            {"method": "supervised", **_UPPER, "keeps_hidden_states": True},
            points=("bench",),
        ),
        Variant(
            "nlft_frozen", "ours, NLFT, frozen scoring (cached)", "nlft_cached", "ours:train", _nlft(scoring="frozen")
        ),
        Variant(
            "nlft_online",
            "ours, NLFT, online scoring, prefixes apart",
            "nlft_online",
            "ours:train",
            {**_nlft(scoring="online"), "shares_prefixes": False},
        ),
        Variant(
            "nlft_shared",
            "ours, NLFT, online scoring, prefixes shared within a pass",
            "nlft_online",
            "ours:train",
            {**_nlft(scoring="online"), "lends_prefixes": False},
        ),
        Variant("nlft_lent", "ours, NLFT, online scoring", "nlft_online", "ours:train", _nlft(scoring="online")),
        Variant("scoring", "ours, the scoring passes alone", "scoring", "ours:score", points=_NOT_DEFAULT),
        Variant(
            "supervised_bf16",
            "ours, supervised, bfloat16 base",
            "supervised",
            "ours:train",
            {"method": "supervised", **_BFLOAT16},
            points=("bench",),
            peak="products_bf16",
        ),
        Variant("plain", "transformers and PEFT, plain loop", "supervised", "loops:train_plain", points=_NOT_DEFAULT),
        Variant(
            "trl",
            "TRL SFTTrainer, defaults",
            "supervised",
            "trl_opponents:train_supervised",
            _sft(),
            points=_NOT_DEFAULT,
        ),
        Variant(
            "trl_padded",
            "TRL SFTTrainer, no checkpointing",
            "supervised",
            "trl_opponents:train_supervised",
            _sft(**_PLAIN_STEPS),
            points=_SUPERVISED,
        ),
        Variant(
            "trl_packed",
            "TRL SFTTrainer, no checkpointing, padding-free",
            "supervised",
            "trl_opponents:train_supervised",
            _sft(**_PLAIN_STEPS, padding_free=True),
            points=_SUPERVISED,
        ),
        Variant(
            "trl_rows",
            "TRL SFTTrainer, no checkpointing, row by row",
            "supervised",
            "trl_opponents:train_supervised",
            {**_sft(**_PLAIN_STEPS), "row_by_row": True},
            points=_SUPERVISED,
        ),
        Variant(
            "trl_sdft",
            "TRL SDFTTrainer (2 prompts), no checkpointing",
            "two_prompts",
            "trl_opponents:train_two_prompts",
            _sft(**_PLAIN_STEPS, distillation_mode="sampled_token", distillation_alpha=1.0),
            points=_NOT_DEFAULT,
        ),
        Variant(
            "torchtune_padded",
            "torchtune, padded batch",
            "supervised",
            "torchtune_opponent:train",
            {"packed": False},
            points=_NOT_DEFAULT,
            environment="torchtune",
        ),
        Variant(
            "torchtune_packed",
            "torchtune, packed",
            "supervised",
            "torchtune_opponent:train",
            {"packed": True},
            environment="torchtune",
        ),
        Variant(
            "torchtune_compiled",
            "torchtune, packed, layers and loss compiled",
            "supervised",
            "torchtune_opponent:train",
            {"packed": True, "compiled": True},
            points=_NOT_DEFAULT,
            environment="torchtune",
        ),
        Variant(
            "unsloth",
            "Unsloth, no checkpointing",
            "supervised",
            "unsloth_opponent:train",
            environment="unsloth",
        ),
        Variant(
            "unsloth_rows",
            "Unsloth, no checkpointing, row by row",
            "supervised",
            "unsloth_opponent:train",
            {"row_by_row": True},
            points=("bench", "default"),
            environment="unsloth",
        ),
        Variant(
            "published_1",
            "published NLFT structure, micro-batch 1",
            "nlft_online",
            "loops:train_published",
            {"rows_together": 1},
            points=_NOT_DEFAULT,
        ),
        Variant(
            "published_all",
            "published NLFT structure, whole batch",
            "nlft_online",
            "loops:train_published",
            {"rows_together": 1_000_000},
            points=("bench",),
            once=True,
        ),
    )
}
