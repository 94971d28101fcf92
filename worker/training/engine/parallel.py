"""Several processes that train one adapter, each on a device and a share of the rows of its own: data parallelism.

Every process holds the whole base model and the whole adapter. A step's rows are shared out by their work, and the
gradients of the shares are added up once a step. Processes are started by ``torchrun`` or by the service's worker;
their environment says who is who (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``).

No process can wait for one that has failed: work that may fail runs inside ``agree``, ``gather`` or ``on_first``, where
every process hears of an error before any enters the next exchange, and a process that died breaks the connection.
"""

from __future__ import annotations

import heapq
import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from worker.training.errors import RankLostError, TrainingError, TrainingInterrupted
from worker.training.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn
    from torch.distributed.distributed_c10d import Store

    from worker.training.engine.lockstep import Lockstep
    from worker.training.spec import RuntimeSettings

STORE_FD = "NLFT_STORE_FD"
"""Names a listening socket at MASTER_PORT that the first rank inherits; absent: it opens that port itself."""

# A lost process breaks its connections at once, and a stuck one is the business of whoever watches the run: these only
# keep a run without such a guard from hanging for ever.
_MEETING = timedelta(minutes=5)
_EXCHANGE = timedelta(hours=1)
_SOLO = timedelta(days=30)

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Outcome(Generic[T]):
    """What a rank's work came to: a value, or an error that all ranks raise."""

    value: T | None = None
    error: TrainingError | TrainingInterrupted | None = None


class Ranks:
    """The processes of one run, seen from one of them; ``size`` 1 is a run without others and exchanges nothing.

    Args:
        rank: Of this process, from 0. The first alone writes files and talks to the parent.
        size: How many processes there are.
        local_rank: Number of this process, and of its device, on its host.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.size = size
        self._local_rank = local_rank
        self._store: Store | None = None
        self._lockstep: Lockstep | None = None
        self._solos = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Ranks:
        """Return the ranks that ``environment`` speaks of, not connected yet; a single one where it is silent."""
        size = int(environment.get("WORLD_SIZE", "1"))
        return cls(int(environment["RANK"]), size, int(environment["LOCAL_RANK"])) if size > 1 else cls()

    @property
    def is_first(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def settings(self, runtime: RuntimeSettings) -> RuntimeSettings:
        """Return ``runtime`` with the device of this rank."""
        if self.size == 1 or runtime.device not in {"auto", "cuda"} or not torch.cuda.is_available():
            return runtime
        return runtime.model_copy(update={"device": f"cuda:{self._local_rank}"})

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Meet the other ranks and stay connected inside the block.

        Raises:
            RankLostError: They did not all come within five minutes.
        """
        if self.size == 1:
            yield
            return
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(self._local_rank)
            backend = "cpu:gloo,cuda:nccl"
        with _losses():
            self._store = _meet(os.environ, self.rank, self.size)
            dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size, timeout=_EXCHANGE)
        yield
        # Not after an error: leaving in order takes all ranks, and the end of the process cuts the connections as well.
        dist.destroy_process_group()

    def keep_step(self, lockstep: Lockstep) -> None:
        """Take part in the passes of the model that ``lockstep`` is of whenever this rank waits for others."""
        self._lockstep = lockstep
        with _losses():
            lockstep.connect()

    def share(self, work: Sequence[int]) -> list[int]:
        """Return the ascending indices of this rank's share of pieces that cost ``work``; see ``share_out``."""
        return share_out(work, self.size)[self.rank]

    def agree(self, work: Callable[[], T]) -> T:
        """Do ``work`` on every rank and return what it gives here.

        Raises:
            TrainingError: Of the lowest rank where one was raised, on all ranks alike; so is ``TrainingInterrupted``.
            RankLostError: A process is gone.
        """
        if self.size == 1:
            return work()
        outcome = _attempt(work)
        heard: _Outcome[None] = _Outcome(error=outcome.error)
        for other in self._exchange(heard):
            _open(other)
        return _open(outcome)

    def gather(self, work: Callable[[], T]) -> list[T]:
        """Do ``work`` on every rank and return what it gives, by rank; raises as ``agree`` does."""
        if self.size == 1:
            return [work()]
        return [_open(outcome) for outcome in self._exchange(_attempt(work))]

    def on_first(self, work: Callable[[], T]) -> T:
        """Do ``work`` on the first rank while the others wait, for days if need be; return what it gives on all.

        Raises as ``agree`` does.
        """
        if self.size == 1:
            return work()
        outcome: _Outcome[T] = _attempt(work) if self.is_first else _Outcome()
        self._rest()
        with _losses():
            self._await_first()
            box: list[Any] = [outcome]
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        found: _Outcome[T] = box[0]
        return _open(found)

    def add_up(self, flat: Tensor) -> None:
        """Replace ``flat`` by its sum over all ranks; the same bits everywhere."""
        if self.size > 1:
            with _losses():
                dist.all_reduce(flat)

    def seed_step(self, seed: int, step: int) -> None:
        """Give this rank draws of its own for a step, which follow from the step alone, so that a resume repeats them.

        A single process keeps its one stream of draws, which checkpoints carry.
        """
        if self.size > 1:
            words = np.random.SeedSequence([seed, step, self.rank]).generate_state(1, np.uint64)
            torch.manual_seed(int(words[0]))

    def require_equal(self, digest: Sequence[int], what: str) -> None:
        """Refuse to go on when ``digest`` is not the same on all ranks.

        Raises:
            TrainingError: ``what`` differs between processes.
        """
        if any(other != digest for other in self.gather(lambda: digest)):
            raise TrainingError(f"the processes of the run no longer agree on {what}; run the job again")

    def _rest(self) -> None:
        if self._lockstep is not None:
            with _losses():
                self._lockstep.rest()

    def _await_first(self) -> None:
        self._solos += 1
        if self._store is None:
            raise RuntimeError("the ranks have not met")
        key = f"nlft/solo/{self._solos}"
        if self.is_first:
            self._store.set(key, "done")
        else:
            self._store.wait([key], _SOLO)

    def _exchange(self, outcome: _Outcome[T]) -> list[_Outcome[T]]:
        found: list[Any] = [None] * self.size
        self._rest()
        with _losses():
            dist.all_gather_object(found, outcome)
        return found


ALONE = Ranks()
"""A run of one process."""


def share_out(work: Sequence[int], ranks: int) -> list[list[int]]:
    """Return, for each of ``ranks``, the ascending indices of its share of pieces that cost ``work``.

    Longest processing time first (https://doi.org/10.1137/0117039): the largest piece left goes to the rank that has
    least, so the busiest rank has at most 4/3 of the least possible. Equal input gives equal shares.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [(0, rank) for rank in range(ranks)]
    for index in sorted(range(len(work)), key=lambda index: (-work[index], index)):
        load, rank = heapq.heappop(loads)
        shares[rank].append(index)
        heapq.heappush(loads, (load + work[index], rank))
    return [sorted(share) for share in shares]


def add_up_gradients(parameters: Sequence[nn.Parameter], ranks: Ranks) -> None:
    """Replace the gradients of ``parameters`` by their sums over ``ranks``, through one flat float32 buffer.

    A parameter without a gradient counts as zero, and keeps none where no rank has one.
    """
    if ranks.size == 1:
        return
    present = ranks.gather(lambda: [parameter.grad is not None for parameter in parameters])
    reduced = [parameter for parameter, *has in zip(parameters, *present, strict=True) if any(has)]
    flat = torch.cat(
        [
            torch.zeros_like(p, dtype=torch.float32).flatten() if p.grad is None else p.grad.float().flatten()
            for p in reduced
        ]
    )
    ranks.add_up(flat)
    for parameter, total in zip(reduced, torch.split(flat, [p.numel() for p in reduced]), strict=True):
        parameter.grad = total.view_as(parameter).to(parameter.dtype)


def digest(tensors: Sequence[Tensor]) -> list[int]:
    """Return two 64-bit sums over the bits of each tensor, the second weighted by position.

    Computed where the tensors are: comparing runs costs a pass over the adapter and a few hundred numbers.
    """
    sums = []
    for tensor in tensors:
        bits = tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()]).flatten().long()
        weights = torch.arange(1, len(bits) + 1, device=bits.device)
        sums += [bits.sum(), (bits * weights).sum()]
    return [int(value) for value in torch.stack(sums).tolist()] if sums else []


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _meet(environment: Mapping[str, str], rank: int, size: int) -> Store:
    if rank == 0 and STORE_FD in environment:
        host, port, listener = environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), int(environment[STORE_FD])
        first: Store = dist.TCPStore(  # type: ignore[attr-defined]  # is there, but not in its list of exports
            host, port, size, is_master=True, timeout=_MEETING, wait_for_workers=False, master_listen_fd=listener
        )
        return first
    store, _, _ = next(iter(rendezvous("env://", timeout=_MEETING)))
    found: Store = store
    return found


@contextmanager
def _losses() -> Iterator[None]:
    """Turn what torch raises when a connection breaks or nobody answers into ``RankLostError``."""
    try:
        yield
    except RuntimeError as error:
        logger.exception("lost the other processes")
        raise RankLostError("a process of the run ended unexpectedly, and so the others had to") from error


def _attempt(work: Callable[[], T]) -> _Outcome[T]:
    try:
        return _Outcome(work())
    except (TrainingError, TrainingInterrupted) as error:
        return _Outcome(error=error)
    except Exception as error:
        logger.exception("unexpected error")
        return _Outcome(error=explain(error))


def _open(outcome: _Outcome[T]) -> T:
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # type: ignore[return-value]  # without an error it is the work's
