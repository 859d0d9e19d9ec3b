"""Rows 25 to 28: jobs in a PostgreSQL database, beside other queues over the same server."""

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import trio

from bench.children import ROOT, Child, ChildError, python_module
from bench.measuring import Spread, take_turns
from bench.peers.environments import NOT_INSTALLED, POSTGRES_PEERS, Peer
from bench.peers.over_postgres import BULK
from bench.row import Missing, Reach, Result, Row, at_least, at_most
from bench.workload import empty
from tests.postgres.cluster import DEBIAN, Cluster
from trio_jobs import DurableJobs, open_jobs
from trio_jobs.store_in_database import migrate
from trio_jobs.stores.postgres.trio_connection import TrioConnection, connect

# Names of sides.
OURS = "trio-jobs"
_COMMIT, _START = "a commit", "from the commit of a submission to the start of its handler"
_TAKE = "a program that hears of a commit, and takes a row by one statement"
_ONE, _TWO = "one process", "two processes"
_FRESH, _LATER = "a fresh table", "behind them"

_CLIENTS = 10

# What a job of SQL carries.
_SUBMIT = "select trio_jobs.submit('empty', 'null')"
_UNFINISHED = "select exists (select from trio_jobs.jobs where completed_at is null)"
_SECONDS = """
    select extract(epoch from max(completed_at) - min(started_at))::float8 from trio_jobs.jobs
"""

# Jobs of one transaction that a server fetches together.
_AT_ONCE = 10

# The slower ones get fewer jobs: a part of ours.
_PARTS = {"PGQueuer": 5, "Procrastinate": 30}

# How many jobs each runs at a time. PGQueuer has no other number: so many it fetches at once, and
# so many ends it records together. With more at a time it is faster, which has a line of its own.
_AT_A_TIME = 10
_MORE_AT_A_TIME = 100
_MORE = f"PGQueuer, {_MORE_AT_A_TIME} at a time"


def measure(
    *,
    singly: int = 3_000,
    bulk: int = 30_000,
    delays: int = 300,
    samples: int = 200,
    behind: int = 100_000,
    turns: int = 3,
) -> list[Result]:
    """Measure all rows.

    Args:
        singly: How many jobs trio-jobs takes one by one in a turn.
        bulk: How many jobs it takes in bulk in a turn; whole thousands.
        delays: How many delays make a median.
        samples: The same where transactions submit several jobs.
        behind: How many jobs have left dead rows in the table and its index by then.
        turns: How often each contestant has its turn.
    """
    programs = _programs()
    if programs is None:
        reason = "no PostgreSQL server is installed"
        return [Missing(number=25, what="rows 25 to 28", reason=reason)]
    cluster = Cluster(programs, safe=True)
    try:
        cluster.start()
        databases = _Databases(cluster)
        return [
            *_beside_peers(databases, singly, bulk, turns),
            *_beside_commit(cluster, databases, delays, turns),
            _two_processes(databases, bulk, turns),
            _held_snapshot(databases, samples, behind, turns),
        ]
    finally:
        cluster.remove()


def _programs() -> Path | None:
    found = sorted(DEBIAN.glob("*/bin/initdb"))
    return found[-1].parent if found else None


class _Databases:
    """Makes databases, each with what it is to have from the start."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._names = map("bench_{}".format, count())
        cluster.create("with_tables", template="template0")
        migrate(cluster.url("with_tables"))

    @contextmanager
    def new(self, *, with_tables: bool = True) -> Iterator[str]:
        """A database that lasts as long as the block; its URL."""
        name = next(self._names)
        self._cluster.create(name, template="with_tables" if with_tables else "template0")
        try:
            yield self._cluster.url(name)
        finally:
            self._cluster.drop(name)


def _beside_peers(databases: _Databases, singly: int, bulk: int, turns: int) -> list[Result]:
    results: list[Result] = []
    installed = [peer for peer in POSTGRES_PEERS if peer.installed]
    missing = {peer.name: NOT_INSTALLED for peer in POSTGRES_PEERS if not peer.installed}
    for number, what, way, jobs, clients, reach in (
        (25, f"submitted one by one by {_CLIENTS} clients", "one", singly, _CLIENTS, at_least(3)),
        (25, f"submitted {BULK:,} at once", "bulk", bulk, 1, at_least(2)),
    ):
        name = (
            f"jobs a second in a database, {what}, run {_AT_A_TIME} at a time, and recorded as "
            "completed"
        )
        subjects = {OURS: partial(_ours, databases, way, jobs, clients)}
        subjects |= {
            peer.name: partial(_peer, databases, peer, way, _part(peer, jobs, way), clients)
            for peer in installed
        }
        for peer in installed:
            if peer.name == "PGQueuer":
                several = partial(_peer, at_a_time=_MORE_AT_A_TIME)
                part = _part(peer, jobs, way)
                subjects[_MORE] = partial(several, databases, peer, way, part, clients)
        try:
            values = take_turns(subjects, turns=turns, warm_up=False)
        except (ChildError, subprocess.CalledProcessError) as error:
            results.append(Missing(number=number, what=name, reason=str(error)))
            continue
        others = {peer.name: Spread.of(values[peer.name]).median for peer in installed}
        if not others:
            results.append(Missing(number=number, what=name, reason="no other queue is there"))
            continue
        best = max(others, key=others.__getitem__)
        against = f"the best other queue over PostgreSQL, {best}"
        results.append(_row((number, name, against), values, OURS, best, reach, "/s"))
        if _MORE in values:
            sides = {side: values[side] for side in (OURS, _MORE)}
            results.append(_row((number, "the same", _MORE), sides, OURS, _MORE, None, "/s"))
    results += [Missing(number=25, what=name, reason=reason) for name, reason in missing.items()]
    return results


def _part(peer: Peer, jobs: int, way: str) -> int:
    """How many jobs a peer gets where trio-jobs gets so many; in bulk, whole thousands."""
    part = jobs // _PARTS[peer.name]
    return part if way == "one" else max(part // BULK, 1) * BULK


def _peer(
    databases: _Databases,
    peer: Peer,
    way: str,
    jobs: int,
    clients: int,
    at_a_time: int = _AT_A_TIME,
) -> float:
    command = [peer.program("python"), "-m", "bench.peers.over_postgres", peer.module]
    with (
        databases.new(with_tables=False) as url,
        Child([*command, url, way, str(jobs), str(clients), str(at_a_time)]) as child,
    ):
        return float(child.wait_for(r"^rate (\S+)", seconds=120)[1])


def _ours(databases: _Databases, way: str, jobs: int, clients: int) -> float:
    with databases.new() as url, psycopg.connect(url, autocommit=True) as connection:
        return trio.run(_submit_and_run, url, connection, way, jobs, clients)


async def _submit_and_run(
    url: str, connection: psycopg.Connection[Any], way: str, jobs: int, clients: int
) -> float:
    async with open_jobs(
        {"empty": empty}, url=url, workers=_AT_A_TIME, buffer_size=1_000, max_open=2 * jobs
    ) as pool:
        await pool.wait((await pool.submit("empty")).id)
        began = time.perf_counter()
        calls = iter(range(jobs if way == "one" else jobs // BULK))
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(_submit, pool, calls, way)
        await _wait_for_end(connection)
        return jobs / (time.perf_counter() - began)


async def _submit(pool: DurableJobs, calls: Iterator[int], way: str) -> None:
    for _ in calls:
        if way == "one":
            await pool.submit("empty")
        else:
            await pool.submit_all([("empty", None)] * BULK)


async def _wait_for_end(connection: psycopg.Connection[Any]) -> None:
    # Of the database, as for the peers; in a thread, as their event loops go on meanwhile.
    while await trio.to_thread.run_sync(_value, connection, _UNFINISHED):  # noqa: ASYNC110
        await trio.sleep(0.01)


def _beside_commit(cluster: Cluster, databases: _Databases, delays: int, turns: int) -> list[Row]:
    with ExitStack() as stack:
        url = stack.enter_context(databases.new())
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        connection.execute("create table plain(number int)")
        connection.execute("create table bare(id int primary key, taken int)")
        connection.execute("insert into bare values (1, 0)")

        def commit() -> float:
            return trio.run(_commits, url, delays)

        def start() -> float:
            return trio.run(_starts, url, 1, delays)[0]

        def take() -> float:
            return trio.run(_takes, url, delays)

        sides = {_START: start, _COMMIT: commit, _TAKE: take}
        with _apart(cluster):
            apart = take_turns(sides, turns=turns)
        together = take_turns({side: sides[side] for side in (_START, _COMMIT)}, turns=turns)
    what = f"{_START}, idle, p50"
    against = f"{_COMMIT} of a row on the same server, idle, p50"
    beside = {side: apart[side] for side in (_START, _TAKE)}
    mixed = (26, f"{what}, each on any processor", against)
    return [
        _row(
            (26, f"{what}, the database on a processor of its own", against),
            {side: apart[side] for side in (_START, _COMMIT)},
            _START,
            _COMMIT,
            at_most(2),
            " ms",
        ),
        _row((26, "the same", _TAKE), beside, _START, _TAKE, None, " ms"),
        _row(mixed, together, _START, _COMMIT, at_most(2), " ms"),
    ]


@contextmanager
def _apart(cluster: Cluster) -> Iterator[None]:
    """The database has a processor of its own, as on a machine of its own, and all else another.

    A start is a chain of short steps of four processes. Where they share processors, the kernel
    moves them about, and a step on a processor that has not run its program lasts longer.
    """
    every = os.sched_getaffinity(0)
    *others, last = sorted(every)
    try:
        os.sched_setaffinity(cluster.pid, {last})  # and of the connections that begin now
        os.sched_setaffinity(0, others or every)
        yield
    finally:
        for pid in (cluster.pid, 0):
            os.sched_setaffinity(pid, every)


class _Committer:
    """Another program: its commits take no time of the event loop here."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
        self._orders, self._answers = process.stdin, process.stdout

    async def commit(self) -> None:
        """Have it commit after a rest, and do not wait."""
        await self._orders.send_all(b"\n")

    async def committed(self) -> tuple[float, float, list[str]]:
        """When it began and had committed, by `time.perf_counter`, and the values of the rows."""
        answer = bytearray()
        while not answer.endswith(b"\n"):
            answer += await self._answers.receive_some()
        began, committed, *values = answer.decode().split()
        return float(began), float(committed), values


@asynccontextmanager
async def _committer(
    url: str, statement: str, *, others_wait: bool = True
) -> AsyncIterator[_Committer]:
    then = ["rest"] if others_wait else []
    command = [sys.executable, "-m", "bench.committer", url, statement, *then]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        yield _Committer(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _commits(url: str, delays: int) -> float:
    """The median milliseconds of a commit of one row, on a server that is idle before."""
    found = []
    insert = "insert into plain values (1) returning number"
    async with _committer(url, insert, others_wait=False) as other:
        for _ in range(delays):
            await other.commit()
            began, committed, _values = await other.committed()
            found.append(committed - began)
    return Spread.of(found).median * 1000


async def _takes(url: str, delays: int) -> float:
    """The median milliseconds of what no queue can do without.

    That is from a commit with a notification to the commit of one statement that takes a row, by a
    program that does nothing else.
    """
    taken = trio.Event()
    at = 0.0

    async def take_each(listener: TrioConnection, taker: TrioConnection) -> None:
        nonlocal at
        while True:
            await listener.notifies()
            await taker.execute("update bare set taken = taken + 1 where id = 1 returning taken")
            at = time.perf_counter()
            taken.set()

    found = []
    notify = "with row as (insert into plain values (1)) select pg_notify('bare', '')"
    async with (
        await connect(url, name="bare") as listener,
        await connect(url, name="bare") as taker,
        _committer(url, notify) as other,
        trio.open_nursery() as nursery,
    ):
        await listener.execute("listen bare")
        nursery.start_soon(take_each, listener, taker)
        for _ in range(delays):
            taken = trio.Event()
            await other.commit()
            await taken.wait()
            _began, committed, _values = await other.committed()
            found.append(at - committed)
        nursery.cancel_scope.cancel()
    return Spread.of(found).median * 1000


async def _starts(url: str, together: int, delays: int, behind: int = 0) -> list[float]:
    """The median milliseconds from a commit to the start of its last job's handler.

    Args:
        url: The database.
        together: How many jobs a transaction submits.
        delays: How many delays make the median.
        behind: After how many other jobs it is measured once more; 0: it is not.
    """
    begun: list[float] = []
    all_begun = trio.Event()

    async def note(_: object) -> None:
        begun.append(time.perf_counter())
        if len(begun) == together:
            all_begun.set()

    async def median_delay() -> float:
        nonlocal all_begun
        found = []
        for _ in range(delays):
            begun.clear()
            all_begun = trio.Event()
            await other.commit()
            await all_begun.wait()
            _began, committed, job_ids = await other.committed()
            found.append(begun[-1] - committed)
            for job_id in job_ids:  # idle again: no round records an end when the next ones come
                await pool.wait(job_id)
        return Spread.of(found).median * 1000

    handlers = {"empty": note, "other": empty}
    submit = f"{_SUBMIT}::text from generate_series(1, {together})"
    async with (
        _committer(url, submit) as other,
        open_jobs(handlers, url=url, buffer_size=1_000) as pool,
    ):
        await pool.wait((await pool.submit("other")).id)
        medians = [await median_delay()]
        if behind:
            for _ in range(behind // BULK):
                *_, last = await pool.submit_all([("other", None)] * BULK)
                await pool.wait(last.id)
            medians.append(await median_delay())
        return medians


def _two_processes(databases: _Databases, jobs: int, turns: int) -> Row:
    values = take_turns(
        {
            _TWO: partial(_full_queue, databases, jobs, 2),
            _ONE: partial(_full_queue, databases, jobs, 1),
        },
        turns=turns,
        warm_up=False,
    )
    names = (27, f"a full queue of {jobs:,} jobs: jobs/s of {_TWO}", f"of {_ONE}")
    return _row(names, values, _TWO, _ONE, at_least(1.25), "/s")


def _full_queue(databases: _Databases, jobs: int, processes: int) -> float:
    """How many jobs a second so many processes run that find all of them at the same moment."""
    with ExitStack() as stack:
        url = stack.enter_context(databases.new())
        connection = stack.enter_context(psycopg.connect(url, autocommit=True))
        for _ in range(processes):
            child = stack.enter_context(python_module("bench.shared_server", url))
            child.wait_for("^ready")
        connection.execute(f"{_SUBMIT} from generate_series(1, {jobs})")
        while _value(connection, _UNFINISHED):
            time.sleep(0.05)
        return jobs / float(_value(connection, _SECONDS))


def _held_snapshot(databases: _Databases, samples: int, behind: int, turns: int) -> Row:
    """Fetch jobs while a transaction that sees the table as it was keeps all dead rows."""
    values: dict[str, list[float]] = {_FRESH: [], _LATER: []}
    for _ in range(turns):
        with databases.new() as url, psycopg.connect(url) as snapshot:
            snapshot.execute("set transaction isolation level repeatable read")
            snapshot.execute("select 1 from trio_jobs.jobs")
            fresh, later = trio.run(_starts, url, _AT_ONCE, samples, behind)
            values[_FRESH].append(fresh)
            values[_LATER].append(later)
    what = f"from the commit of {_AT_ONCE} jobs to the start of the last, p50"
    names = (28, f"{what}, {behind:,} jobs later, while a snapshot is held", "on a fresh table")
    return _row(names, values, _LATER, _FRESH, at_most(2), " ms")


def _value(connection: psycopg.Connection[Any], sql: str) -> Any:  # noqa: ANN401  (a column's)
    row = connection.execute(sql).fetchone()
    assert row is not None  # noqa: S101  (for the type checker)
    return row[0]


def _row(
    names: tuple[int, str, str],
    values: Mapping[str, Sequence[float]],
    over: str,
    under: str,
    reach: Reach | None,
    unit: str,
) -> Row:
    return Row.of_turns(names, values, over=over, under=under, reach=reach, unit=unit)
