"""What is asked of the servers, workload by workload, and the client processes that ask it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from bench.api import requests
from bench.api.client import COUNTER, Outcome, Plan, drive, upload
from bench.api.measures import MIB, Sample
from bench.api.service import Bench, Target, Tenant, create_request, exchange
from bench.machine import cpu_seconds, family_cpu_seconds

JOBS_A_PROJECT = 900
"""Jobs that a round creates in a project at most: below the default quota of 1000 queued ones."""
_EVERYWHERE = 10**9


@dataclass(frozen=True, slots=True)
class Workload:
    """A measured thing; ``run`` makes one sample of it, ``opponent`` is the workload it is compared with."""

    name: str
    unit: str
    run: Callable[[], Sample]
    opponent: str | None = None


@dataclass(slots=True)
class Load:
    """The client processes.

    Args:
        pool: Runs ``processes`` of them.
        processes: How many drive a workload together.
        connections: Sockets of each.
        seconds: How long each workload lasts in a round.
    """

    bench: Bench
    pool: ProcessPoolExecutor
    processes: int
    connections: int
    seconds: float
    numbers: int = 0

    def send(self, target: Target, asked: Sequence[bytes], *, most: int | None = None) -> Sample:
        """Drive ``target`` with requests from all processes at once; return what it cost."""
        share = None if most is None else most // self.processes
        self.numbers += _EVERYWHERE
        plans = [
            Plan(
                target.address,
                tuple(asked[number :: self.processes] or asked),
                self.connections,
                self.seconds,
                share,
                self.numbers + number * _EVERYWHERE // self.processes,
            )
            for number in range(self.processes)
        ]
        before = self._clocks(target)
        outcomes = list(self.pool.map(drive, plans))
        return self._sample(target, before, outcomes, sum(outcome.answers for outcome in outcomes))

    def send_file(self, target: Target, head: bytes, parts: tuple[bytes, ...]) -> Sample:
        """Upload once, from this process; the file is the second part."""
        before = self._clocks(target)
        outcome = upload(target.address, head, parts)
        return self._sample(target, before, [outcome], len(parts[1]) / MIB)

    def _clocks(self, target: Target) -> tuple[float, float]:
        return cpu_seconds(target.pid), family_cpu_seconds(self.bench.postgres_pid)

    def _sample(self, target: Target, before: tuple[float, float], outcomes: Sequence[Outcome], units: float) -> Sample:
        cpu, postgres = self._clocks(target)
        return Sample(
            units=units,
            wall=max(outcome.wall for outcome in outcomes),
            cpu=cpu - before[0],
            postgres_cpu=postgres - before[1],
            client_busy=max(outcome.cpu / outcome.wall for outcome in outcomes),
            latencies=tuple(latency for outcome in outcomes for latency in outcome.latencies),
        )


def list_workloads(load: Load, *, upload_bytes: int) -> list[Workload]:
    """Return every workload, each right behind its opponent."""
    bench = load.bench
    reader = bench.reader
    ids = [job["id"] for job in bench.ask(requests.get(f"{requests.JOBS}?limit=64", reader.key))["data"]]
    gets = [requests.get(f"{requests.JOBS}/{job_id}", reader.key) for job_id in ids]
    lists = [requests.get(requests.JOBS, reader.key)]
    framework = f"/framework/{_answer_size(bench, gets[0])}"
    creates = [create_request(bench.creators[0])]
    return [
        *_compared("get job", load, gets),
        Workload("FastAPI constant", "requests", lambda: load.send(bench.constant, [requests.get(framework)])),
        *_compared("list 20 jobs", load, lists),
        _constant("create", load, creates, size=_created_size(bench)),
        *(_create(load, bench.creators[:count]) for count in (1, len(bench.creators))),
        *_uploads(load, upload_bytes),
    ]


def follow_plan(bench: Bench, connections: int, seconds: float, *, query: str = "limit=100") -> Plan:
    """Return what idle followers ask for: the events of their job, with ``query``."""
    reader = bench.reader
    jobs = bench.ask(requests.get(f"{requests.JOBS}?limit=64", reader.key))["data"]
    paths = [f"{requests.JOBS}/{job['id']}/events?{query}" for job in jobs]
    asked = tuple(requests.get(path, reader.key) for path in paths)
    return Plan(bench.api.address, asked, connections, seconds)


def _compared(name: str, load: Load, asked: Sequence[bytes]) -> list[Workload]:
    opponent = _constant(name, load, asked, size=_answer_size(load.bench, asked[0]))
    own = Workload(name, "requests", lambda: load.send(load.bench.api, asked), opponent.name)
    return [opponent, own]


def _constant(name: str, load: Load, asked: Sequence[bytes], *, size: int) -> Workload:
    """Return the opponent: requests of the same kind and size, answered with as many bytes."""
    same = [request.replace(request.split(b" ", 2)[1], b"/plain/%d" % size, 1) for request in asked]
    return Workload(f"constant: {name}", "requests", lambda: load.send(load.bench.constant, same))


def _create(load: Load, tenants: Sequence[Tenant]) -> Workload:
    asked = [create_request(tenant) for tenant in tenants]

    def run() -> Sample:
        sample = load.send(load.bench.api, asked, most=JOBS_A_PROJECT * len(tenants))
        stored = load.bench.clear_created()
        if stored != sample.units:
            raise RuntimeError(f"{sample.units:g} creates were answered, but {stored} jobs are stored")
        return sample

    name = "create job, one project" if len(tenants) == 1 else f"create job, {len(tenants)} projects"
    return Workload(name, "requests", run, "constant: create")


def _uploads(load: Load, size: int) -> list[Workload]:
    bench, rows = load.bench, requests.chat_rows(size, seed=2)

    def send(target: Target, path: str, purpose: str) -> Sample:
        load.numbers += 1
        # A row of its own makes each upload another blob, which the store has not seen.
        content = rows + requests.chat_rows(1, seed=load.numbers)
        parts = requests.multipart(purpose, content)
        length = sum(map(len, parts))
        head = requests.post_head(path, length, bench.reader.key, kind=requests.MULTIPART_KIND)
        return load.send_file(target, head, parts)

    opponent = Workload("constant: upload", "MiB", lambda: send(bench.constant, "/plain/400", "batch"))
    unchecked = Workload("upload, unchecked", "MiB", lambda: send(bench.api, "/v1/files", "batch"), opponent.name)
    checked = Workload(
        "upload, fine-tune rows", "MiB", lambda: send(bench.api, "/v1/files", "fine-tune"), opponent.name
    )
    return [opponent, unchecked, checked]


def _answer_size(bench: Bench, request: bytes) -> int:
    return len(exchange(bench.api.address, request))


def _created_size(bench: Bench) -> int:
    size = _answer_size(bench, create_request(bench.creators[0]).replace(COUNTER, b"0" * len(COUNTER)))
    bench.clear_created()
    return size
