"""Runs the benchmark: `python -m bench.api.run`. Rounds in turn over all workloads, then one table, CSV and JSON."""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.api.client import Plan, drive, pin
from bench.api.followers import follow, holding_streams
from bench.api.measures import BARS, Sample, Summary, judge, quantile, summarise
from bench.api.report import Following, Report, show, write
from bench.api.service import Bench, running_bench
from bench.api.workloads import Load, Workload, follow_plan, list_workloads
from bench.machine import cpu_seconds, divide_cores, machine_class

RESULTS = Path(__file__).parents[1] / "results" / "api"
_CREATORS = 8
_WARM_UP_SECONDS = 0.5
_MIB = 1 << 20
_STREAM_PERIODS = 5  # a stream reads once in 15 s


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        rounds: Samples of every workload.
        seconds: Length of a sample; uploads take what they take.
        upload_mib: Size of an uploaded file.
        processes: Client processes, two at least: one of them follows while another asks.
        connections: Sockets of each client process.
        followers: Idle followers that are held.
        period: Seconds between two questions of a follower; below the server's keep-alive limit of five.
        listed_jobs: Jobs of the project whose jobs are read.
    """

    rounds: int = 5
    seconds: float = 2.0
    upload_mib: int = 128
    processes: int = 2
    connections: int = 16
    followers: int = 1000
    period: float = 4.0
    listed_jobs: int = 64


def measure(size: Size, directory: Path) -> Report:
    """Return what a run finds; servers and their files live below ``directory`` while it lasts.

    Raises:
        EmbeddedServerError: A server does not start.
        UnexpectedAnswerError: The API refused something.
    """
    machine = machine_class()
    api_cores, other_cores = divide_cores()
    context = multiprocessing.get_context("forkserver")
    with (
        _pinned(other_cores),  # servers of the database and clients inherit it
        running_bench(directory, api_cores=api_cores, creators=_CREATORS, listed_jobs=size.listed_jobs) as bench,
        ProcessPoolExecutor(size.processes, mp_context=context, initializer=pin, initargs=(other_cores,)) as pool,
    ):
        load = Load(bench, pool, size.processes, size.connections, _WARM_UP_SECONDS)
        workloads = list_workloads(load, upload_bytes=size.upload_mib * _MIB)
        for workload in workloads:
            workload.run()
        load.seconds = size.seconds
        samples = _take_rounds(workloads, size.rounds)
        following = _follow(bench, pool, size)
    summaries = _summarise(workloads, samples)
    return Report(machine, size.rounds, summaries, judge(BARS, summaries), following)


@contextmanager
def _pinned(cores: frozenset[int]) -> Iterator[None]:
    before = frozenset(os.sched_getaffinity(0))
    pin(cores)
    try:
        yield
    finally:
        pin(before)


def _take_rounds(workloads: Sequence[Workload], rounds: int) -> dict[str, list[Sample]]:
    samples: dict[str, list[Sample]] = {workload.name: [] for workload in workloads}
    for number in range(rounds):
        # Every other round backwards, so that a drift of the machine favours nobody.
        for workload in workloads if number % 2 == 0 else reversed(workloads):
            samples[workload.name].append(workload.run())
    return samples


def _summarise(workloads: Sequence[Workload], samples: Mapping[str, Sequence[Sample]]) -> dict[str, Summary]:
    return {
        workload.name: summarise(
            workload.name,
            workload.unit,
            samples[workload.name],
            samples[workload.opponent] if workload.opponent else (),
        )
        for workload in workloads
    }


def _follow(bench: Bench, pool: ProcessPoolExecutor, size: Size) -> Following:
    """Measure what idle followers cost: CPU of the API while only they ask, and latency of one client beside them."""
    probe = Plan(bench.api.address, follow_plan(bench, 1, 0).requests[:1], 1, size.seconds)
    alone = pool.submit(drive, probe).result()
    # One period until every follower has asked once, one to measure the followers in, then the probe.
    held = pool.submit(follow, follow_plan(bench, size.followers, 2 * size.period + 2 * size.seconds), size.period)
    time.sleep(size.period)
    share = _cpu_share(bench.api.pid, size.period)
    beside = pool.submit(drive, probe).result()
    held.result()
    with holding_streams(follow_plan(bench, size.followers, 0, query="stream=true")):
        stream_share = _cpu_share(bench.api.pid, _STREAM_PERIODS * size.period)
    quiet, busy = sorted(alone.latencies), sorted(beside.latencies)
    return Following(
        followers=size.followers,
        period=size.period,
        api_cpu_share=share,
        stream_cpu_share=stream_share,
        alone_ms=(1000 * quantile(quiet, 0.5), 1000 * quantile(quiet, 0.99)),
        beside_ms=(1000 * quantile(busy, 0.5), 1000 * quantile(busy, 0.99)),
    )


def _cpu_share(pid: int, seconds: float) -> float:
    """Return how much of a core a process computes in the next ``seconds``."""
    before, started = cpu_seconds(pid), time.perf_counter()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.perf_counter() - started)


def main() -> None:
    """Read the command line, measure, print and keep the result."""
    given = Size()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=given.rounds)
    parser.add_argument("--seconds", type=float, default=given.seconds, help="length of a sample")
    parser.add_argument("--upload-mib", type=int, default=given.upload_mib)
    parser.add_argument("--followers", type=int, default=given.followers)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    size = Size(
        rounds=options.rounds,
        seconds=options.seconds,
        upload_mib=options.upload_mib,
        followers=options.followers,
    )
    with tempfile.TemporaryDirectory(prefix="nlft-bench-") as directory:
        report = measure(size, Path(directory))
    show(report)
    print(f"written: {write(report, options.out)}")


if __name__ == "__main__":
    main()
