import re,sys
def sub(path, *pairs):
    s=open(path).read()
    for a,b in pairs:
        assert s.count(a)==1, (path, s.count(a), a)
        s=s.replace(a,b)
    open(path,'w').write(s)

sub("worker/training/errors.py",
("    └── CheckpointError            exit 1   ``invalid_checkpoint``\n",
 "    ├── RankLostError              exit 1   ``rank_lost``\n    └── CheckpointError            exit 1   ``invalid_checkpoint``\n"),
('''class CheckpointError(TrainingError):
''','''class RankLostError(TrainingError):
    """One of the processes of a run is gone, so the others cannot go on."""

    code = "rank_lost"


class CheckpointError(TrainingError):
'''))

sub("worker/training/engine/optimizer.py",
('''    def clip(self) -> Tensor:
''','''    def add_up(self, ranks: Ranks) -> None:
        """Replace the accumulated gradient by the sum of those of all ``ranks``."""
        add_up_gradients(list(self._named.values()), ranks)

    def clip(self) -> Tensor:
'''),
('''    def load_state(self''','''    def digest(self) -> list[int]:
        """Return what two equal adapters with equal moments have in common, see ``parallel.digest``."""
        parameters = list(self._named.values())
        kept = (self._adamw.state[p][kind] for p in parameters if p in self._adamw.state for kind in _MOMENTS[:2])
        return digest([*parameters, *kept])

    def load_state(self'''),
('''import torch

if TYPE''','''import torch

from worker.training.engine.parallel import add_up_gradients, digest

if TYPE'''),
('''    from worker.training.methods.base import Hyperparameters

_MOM''','''    from worker.training.engine.parallel import Ranks
    from worker.training.methods.base import Hyperparameters

_MOM'''))

sub("worker/training/engine/step.py",
('''from worker.training.engine.packing import group_by_budget
''','''from worker.training.engine.packing import group_by_budget
from worker.training.engine.parallel import ALONE, share_out
'''),
('''        hyperparameters: Of that method.
    """

    def __init__(self, scorer: Scorer, method: Method, hyperparameters: Hyperparameters) -> None:
''','''        hyperparameters: Of that method.
        ranks: Processes that share the examples of every step and evaluation; each is given all of them.
    """

    def __init__(
        self, scorer: Scorer, method: Method, hyperparameters: Hyperparameters, ranks: Ranks = ALONE
    ) -> None:
'''),
('''        self._hyperparameters = hyperparameters
        self._passes''','''        self._hyperparameters = hyperparameters
        self._ranks = ranks
        self._passes'''),
('''            totals = self._scorer.fit(
                lambda: self._accumulate(examples, lambda _: check()), self._sizes(examples), start_over
            )
        except TrainingInterrupted:
            start_over()
            raise
        result''','''            totals = self._together(examples, lambda _: check(), start_over)
        except TrainingInterrupted:
            start_over()
            raise
        optimizer.add_up(self._ranks)
        result'''),
('''        with torch.no_grad():
            totals = self._scorer.fit(
                lambda: self._accumulate(examples, lambda done: report(done, len(examples))),
                self._sizes(examples),
                lambda: None,
            )
        return''','''        with torch.no_grad():
            totals = self._together(examples, lambda done: report(done, len(examples)), lambda: None)
        return'''),
('''    def _accumulate(self, examples: Sequence[PreparedExample], begin: Callable[[int], None]) -> _Totals:
        """Run all micro-batches, with backward passes where autograd is on; nothing here waits for the device."""
''','''    def _together(
        self, examples: Sequence[PreparedExample], begin: Callable[[int], None], start_over: Callable[[], None]
    ) -> _Totals:
        """Return what the shares of all ranks come to; the gradients stay where they are."""
        shares = share_out([self._work(example) for example in examples], self._ranks.size)
        own = [examples[index] for index in shares[self._ranks.rank]]

        def run() -> _Totals:
            totals = self._scorer.fit(
                lambda: self._accumulate(own, len(examples), begin), self._sizes(own), start_over
            )
            return totals if self._ranks.size == 1 else totals.on_host()

        return _merge(shares, self._ranks.gather(run))

    def _work(self, example: PreparedExample) -> int:
        """Return what a step on ``example`` costs, in tokens of a pass without gradient."""
        run = (p for p in self._passes if not p.cached)
        return sum(example.tokens([p]) * (BACKWARD_FACTOR if p.with_grad else 1) for p in run)

    def _accumulate(
        self, examples: Sequence[PreparedExample], of: int, begin: Callable[[int], None]
    ) -> _Totals:
        """Run all micro-batches, with backward passes of the mean over ``of`` examples where autograd is on.

        Nothing here waits for the device.
        """
'''),
('''output.losses.sum() / len(examples))''','''output.losses.sum() / of)'''),
('''def _count_weights(''','''    def on_host(self) -> _Totals:
        """Return the same sums off the device, one tensor of each."""
        metrics = {name: [torch.stack(values).cpu()] for name, values in self.metrics.items()}
        columns = ([torch.cat(column).cpu()] if column else [] for column in (self.losses, self.hits))
        counts = [torch.stack(self.weight_counts).sum(dim=0).cpu()] if self.weight_counts else []
        return _Totals(*columns, metrics, counts, self.tokens)


def _merge(shares: Sequence[Sequence[int]], parts: Sequence[_Totals]) -> _Totals:
    """Return the totals of all ranks as if one had run all examples, in their order; ``parts`` are off the device."""
    if len(parts) == 1:
        return parts[0]
    losses = torch.cat([loss for part in parts for loss in part.losses])
    order = torch.tensor([index for share in shares for index in share])
    metrics: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, values in part.metrics.items():
            metrics.setdefault(name, []).extend(value for stacked in values for value in stacked)
    return _Totals(
        [torch.empty_like(losses).index_copy_(0, order, losses)],
        [hits for part in parts for hits in part.hits],
        metrics,
        [counts for part in parts for counts in part.weight_counts],
        sum(part.tokens for part in parts),
    )


def _count_weights('''),
('''grad_norm is None else grad_norm
''','''grad_norm is None else grad_norm.to(hits.device)
'''),
('''    from worker.training.engine.optimizer import AdapterOptimizer
''','''    from worker.training.engine.optimizer import AdapterOptimizer
    from worker.training.engine.parallel import Ranks
'''),
)
