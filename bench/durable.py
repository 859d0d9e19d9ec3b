"""Rows 15 to 19: jobs in a file beside jobs in memory, and beside Huey with a file."""

import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count, repeat
from pathlib import Path

import trio

from bench import ours
from bench.children import Child, ChildError, Server
from bench.disk import Commits, new_folder, no_disk
from bench.load import CONNECTIONS, Clients, post
from bench.many import send_stream
from bench.measuring import Spread, cpu_seconds, ratio, take_turns
from bench.peers.environments import HUEY, NOT_INSTALLED
from bench.peers.producer import THREADS
from bench.row import Missing, Reach, Result, Row, at_least
from bench.workload import PAYLOAD, SUBMISSION, empty
from trio_jobs import DurableJobs, Job, open_jobs

# Names of sides.
_MEMORY, _FILE, _COMMIT = "trio-jobs, in memory", "trio-jobs, in a file", "a commit"
_SINGLE, _BATCHED = f"trio-jobs, {CONNECTIONS} clients", "trio-jobs, in batches"
_TASKS, _AT_ONCE = f"trio-jobs, {THREADS} tasks", "trio-jobs, submit_all"
_HUEY, _HUEY_ALONE = f"Huey, {THREADS} producers", "Huey, one producer"

_BATCH = 1_000
_BUFFER = 100_000

# More than the store keeps by default: from then on each job that ends drops an older one.
_FILL = 12_000

# Submits so many jobs.
Submit = Callable[[DurableJobs, int], Awaitable[None]]

# So many tasks submit at once, each one job after the other.
_SUBMITTERS = 100


def measure(*, requests: int = 3_000, bulk: int = 50_000, turns: int = 3) -> list[Result]:
    """Measure rows 15 to 17.

    Args:
        requests: How many requests each server gets in a turn.
        bulk: How many jobs the batches of a turn have, and its stream; whole thousands.
        turns: How often each server has its turn.
    """
    if (reason := no_disk()) is not None:
        whats = {15: "`POST /jobs`", 16: "`POST /jobs/batch`", 17: "`POST /jobs/stream`"}
        return [Missing(number=n, what=f"{w} in a file", reason=reason) for n, w in whats.items()]
    results: list[Result] = []
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder())
        commits = stack.enter_context(Commits(folder))
        memory = _server(stack, None)
        file = _server(stack, folder / "single.db")
        both = {_MEMORY: memory, _FILE: file}
        for server in both.values():
            send_stream(server.port, _FILL)
        for connections in (16, 64):
            posts = {
                name: _Requests(stack, server, connections, requests)
                for name, server in both.items()
            }
            values = take_turns({**posts, _COMMIT: commits.median_ms}, turns=turns)
            cpu = {name: each.cpu[-turns:] for name, each in posts.items()}
            results += [_beside_commit(connections, values), _cpu(connections, cpu)]
        batches = {
            name: _batches(stack, _server(stack, path, buffer_size=_BUFFER), bulk)
            for name, path in ((_MEMORY, None), (_FILE, folder / "batches.db"))
        }
        streams = {name: _stream(stack, server, bulk) for name, server in both.items()}
        for number, what, subjects in (
            (16, f"`POST /jobs/batch`, {_BATCH:,} a batch, in a file: jobs completed", batches),
            (17, "`POST /jobs/stream` in a file: jobs completed", streams),
        ):
            values = take_turns(subjects, turns=turns)
            results.append(_beside_memory(number, what, values, at_least(0.35)))
    return results


def measure_in_process(*, jobs: int = 20_000, turns: int = 3) -> list[Result]:
    """Measure row 18.

    Args:
        jobs: How many go through in a turn; whole thousands.
        turns: How often each store has its turn.
    """
    what = "submit → completed in the process, 10 workers, in a file: jobs/s"
    if (reason := no_disk()) is not None:
        return [Missing(number=18, what=what, reason=reason)]
    results: list[Result] = []
    with new_folder() as folder:
        paths = (folder / f"{number}.db" for number in count())
        for many_at_once, way, reach in (
            (True, f"{_BATCH:,} at once", at_least(0.3)),
            (False, f"one by one from {_SUBMITTERS} tasks", None),
        ):
            subjects: dict[str, Callable[[], float]] = {
                _MEMORY: partial(_end_to_end, jobs, many_at_once, repeat(None)),
                _FILE: partial(_end_to_end, jobs, many_at_once, paths),
            }
            values = take_turns(subjects, turns=turns)
            results.append(_beside_memory(18, f"{what}, submitted {way}", values, reach))
    return results


def measure_beside_huey(
    *, requests: int = 3_000, bulk: int = 50_000, jobs: int = 1_000, turns: int = 3
) -> list[Result]:
    """Measure row 19.

    Args:
        requests: How many jobs a turn submits one by one.
        bulk: How many jobs the batches of a turn have.
        jobs: How many jobs Huey gets in a turn.
        turns: How often both sides have their turn.
    """
    one_by_one = "jobs a second that are on the disk, one by one"
    in_bulk = "jobs a second that are on the disk, in bulk"
    reason = no_disk() or (None if HUEY.installed else NOT_INSTALLED)
    if reason is not None:
        return [Missing(number=19, what=one_by_one, reason=reason)]
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder())
        paths = (folder / f"{number}.db" for number in count())
        single = _server(stack, folder / "single.db")
        batches = _server(stack, folder / "batches.db", buffer_size=_BUFFER)
        send_stream(single.port, _FILL)
        latency = _Requests(stack, single, CONNECTIONS, requests)
        subjects: dict[str, Callable[[], float]] = {
            _TASKS: lambda: _submitted(requests, next(paths), _submit_singly),
            _AT_ONCE: lambda: _submitted(bulk, next(paths), _submit_many),
            _SINGLE: lambda: CONNECTIONS / latency() * 1000,
            _BATCHED: _batches(stack, batches, bulk),
            _HUEY: partial(_huey, folder, jobs, THREADS),
            _HUEY_ALONE: partial(_huey, folder, jobs, 1),
        }
        try:
            values = take_turns(subjects, turns=turns)
        except ChildError as error:
            return [Missing(number=19, what=one_by_one, reason=str(error))]
    # Huey has no call for many jobs: what is faster stands for it.
    best = max((_HUEY, _HUEY_ALONE), key=lambda name: Spread.of(values[name]).median)
    in_process, over_http = "in the process", "over HTTP, which runs them meanwhile"
    return [
        _beside(f"{one_by_one}, {in_process}", values, _TASKS, _HUEY, at_least(3)),
        _beside(f"{in_bulk}, {in_process}", values, _AT_ONCE, best, at_least(30)),
        _beside(f"{one_by_one}, {over_http}", values, _SINGLE, _HUEY, None),
        _beside(f"{in_bulk}, {over_http}", values, _BATCHED, best, None),
    ]


def _server(stack: ExitStack, store: Path | None, *, buffer_size: int = 1_000) -> Server:
    settings = ours.Settings(buffer_size=buffer_size, store=store)
    return stack.enter_context(ours.running(settings))


class _Requests:
    """A measurement: the mean milliseconds from a request to its answer.

    Attributes:
        cpu: The server's microseconds of CPU for a request, turn by turn, from the warm-up on.
    """

    def __init__(self, stack: ExitStack, server: Server, connections: int, requests: int) -> None:
        self._clients = stack.enter_context(Clients(server.port, connections=connections))
        self._server = server
        self._requests = requests
        self.cpu: list[float] = []

    def __call__(self) -> float:
        before = cpu_seconds(self._server.pid)
        answers = self._clients.send(repeat(post("/jobs", SUBMISSION), self._requests))
        self.cpu.append((cpu_seconds(self._server.pid) - before) / self._requests * 1e6)
        return sum(answers.delays) / self._requests * 1000


def _batches(stack: ExitStack, server: Server, jobs: int) -> Callable[[], float]:
    """A measurement: how many jobs a second end, each in a batch."""
    clients = stack.enter_context(Clients(server.port, connections=4))
    batch = post("/jobs/batch", b"[" + b",".join([SUBMISSION] * _BATCH) + b"]")
    return _rate(stack, server, jobs, lambda: clients.send(repeat(batch, jobs // _BATCH)))


def _stream(stack: ExitStack, server: Server, jobs: int) -> Callable[[], float]:
    """A measurement: how many jobs a second end, all in a stream."""
    return _rate(stack, server, jobs, lambda: send_stream(server.port, jobs))


def _rate(
    stack: ExitStack, server: Server, jobs: int, submit_all: Callable[[], object]
) -> Callable[[], float]:
    """A measurement: the jobs a second, from the first submission to the last end."""
    waiting = stack.enter_context(Clients(server.port, connections=1))
    last = post("/jobs", SUBMISSION, "Prefer: wait=30")

    def measured() -> float:
        began = time.perf_counter()
        submit_all()
        # Jobs run in their order, and nobody is told of an end that is not on the disk.
        while waiting.send([last], may_be_refused=True).refused:
            time.sleep(0.005)
        return jobs / (time.perf_counter() - began)

    return measured


def _end_to_end(jobs: int, many_at_once: bool, paths: Iterator[Path | None]) -> float:
    """How many jobs a second are submitted and end, in this process."""
    gc.collect()
    run = _run_many if many_at_once else _run_singly
    return trio.run(run, jobs, next(paths))


async def _run_many(jobs: int, path: Path | None) -> float:
    async with open_jobs({"email": empty}, buffer_size=jobs, path=path) as pool:
        began = time.perf_counter()
        for _ in range(jobs // _BATCH):
            submitted = pool.submit_all([("email", PAYLOAD)] * _BATCH)
            *_, last = submitted if isinstance(submitted, list) else await submitted
        await pool.wait(last.id)
        return jobs / (time.perf_counter() - began)


async def _run_singly(jobs: int, path: Path | None) -> float:
    async with open_jobs({"email": empty}, buffer_size=jobs, path=path) as pool:

        async def submit() -> None:
            for _ in range(jobs // _SUBMITTERS):
                submitted = pool.submit("email", PAYLOAD)
                last = submitted if isinstance(submitted, Job) else await submitted
            await pool.wait(last.id)

        began = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(_SUBMITTERS):
                nursery.start_soon(submit)
        return jobs / (time.perf_counter() - began)


def _submitted(jobs: int, path: Path, submit: Submit) -> float:
    """How many jobs a second are submitted in this process; none of them ends meanwhile."""

    async def run() -> float:
        over = trio.Event()

        async def wait(_: object) -> None:
            await over.wait()

        gc.collect()
        async with open_jobs({"email": wait}, workers=1, buffer_size=jobs, path=path) as pool:
            began = time.perf_counter()
            await submit(pool, jobs)
            rate = jobs / (time.perf_counter() - began)
            over.set()
            return rate

    return trio.run(run)


async def _submit_singly(pool: DurableJobs, jobs: int) -> None:
    async def submit(number: int) -> None:
        for _ in range(number):
            await pool.submit("email", PAYLOAD)

    await _in_tasks(submit, jobs)


async def _submit_many(pool: DurableJobs, jobs: int) -> None:
    async def submit(batches: int) -> None:
        for _ in range(batches):
            await pool.submit_all([("email", PAYLOAD)] * _BATCH)

    await _in_tasks(submit, jobs // _BATCH)


async def _in_tasks(submit: Callable[[int], Awaitable[None]], number: int) -> None:
    async with trio.open_nursery() as nursery:
        for first in range(THREADS):
            nursery.start_soon(submit, len(range(first, number, THREADS)))


def _huey(folder: Path, jobs: int, threads: int) -> float:
    """How many jobs a second Huey takes, none of which it runs meanwhile."""
    command = [HUEY.program("python"), "-m", "bench.peers.producer", HUEY.module, "threads"]
    environment = {"BENCH_FILE": str(folder / "huey.db")}
    with Child([*command, str(jobs), str(threads)], environment=environment) as child:
        return jobs / float(child.wait_for(r"^submitted in (\S+) s")[1])


def _beside_commit(connections: int, values: dict[str, list[float]]) -> Row:
    least = [a + b for a, b in zip(values[_MEMORY], values[_COMMIT], strict=True)]
    return Row(
        number=15,
        what=f"`POST /jobs` in a file, {connections} connections",
        against="connections ÷ (the memory store's latency + the median commit)",
        # Each rate is the number of connections by a latency.
        figure=ratio(least, values[_FILE]),
        reach=at_least(0.7),
        sides={name: Spread.of(each) for name, each in values.items()},
        sides_unit=" ms",
    )


def _cpu(connections: int, values: dict[str, list[float]]) -> Row:
    what = f"the same in the server's CPU per request, {connections} connections"
    return _beside_memory(15, what, values, None, unit=" µs")


def _beside_memory(
    number: int,
    what: str,
    values: dict[str, list[float]],
    reach: Reach | None,
    *,
    unit: str = "/s",
) -> Row:
    return Row(
        number=number,
        what=what,
        against="the same in memory",
        figure=ratio(values[_FILE], values[_MEMORY]),
        reach=reach,
        sides={name: Spread.of(each) for name, each in values.items()},
        sides_unit=unit,
    )


def _beside(
    what: str, values: dict[str, list[float]], over: str, under: str, reach: Reach | None
) -> Row:
    return Row(
        number=19,
        what=what,
        against=f"{under}, with fsync",
        figure=ratio(values[over], values[under]),
        reach=reach,
        sides={name: Spread.of(values[name]) for name in (over, under)},
        sides_unit="/s",
    )
