"""Where the time of a step goes, by kind of operation.

python -m bench.trainer.profile bench supervised
python -m bench.trainer.profile default nlft --settings '{"scoring": "online"}'
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from bench.trainer.flops import Shape
from bench.trainer.ours import set_up
from bench.trainer.points import ADAPTER, POINTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.autograd.profiler_util import FunctionEventAvg

_PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::linear", "mkldnn::_linear_pointwise"}


def kind(name: str, shapes: Sequence[Sequence[int]], shape: Shape) -> str:
    """Return the part of the step that the operation ``name`` on operands of ``shapes`` belongs to."""
    sizes = {size for operand in shapes for size in operand or ()}
    if "attention" in name or "attn" in name:
        return "attention"
    if name in _PRODUCTS:
        if shape.vocabulary in sizes:
            return "head products"
        return "adapter products" if shape.rank in sizes else "body products"
    if shape.vocabulary in sizes:
        return "head, the rest"
    return name.removeprefix("aten::")


def rows(events: Sequence[FunctionEventAvg], shape: Shape) -> Iterator[tuple[str, float, int]]:
    """Yield kind, CPU milliseconds and calls, the longest first."""
    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for event in events:
        name = kind(event.key or "", event.input_shapes or (), shape)
        spent[name] += event.self_cpu_time_total / 1e3
        calls[name] += event.count
    for name in sorted(spent, key=lambda name: -spent[name]):
        yield name, spent[name], calls[name]


def main() -> None:
    """Profile what the command line names and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("point", choices=POINTS)
    parser.add_argument("method")
    parser.add_argument("--settings", type=json.loads, default={}, help="hyperparameters as JSON")
    parser.add_argument("--precision", choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rows", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    point = POINTS[options.point]
    trainer = set_up(point, options.method, options.settings, precision=options.precision)
    shape = Shape.of(point.model_config(), rank=ADAPTER.r)
    passes = trainer.method.passes(trainer.hyperparameters)
    with trainer.scorer.attention():
        trainer.scorer.fill_cache(trainer.examples, passes, lambda _done, _total: None)
        trainer.train(1)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            for step in range(2, options.steps + 2):
                trainer.train(step)
    found = list(rows(profiler.key_averages(group_by_input_shape=True), shape))
    total = sum(milliseconds for _, milliseconds, _ in found)
    print(f"{options.point} {options.method}: {total / options.steps:.0f} ms a step")
    for name, milliseconds, calls in found[: options.rows]:
        per_step = milliseconds / options.steps
        print(f"{name:45} {per_step:9.1f} ms {milliseconds / total:6.1%} {calls / options.steps:9.0f} calls")


if __name__ == "__main__":
    main()
