"""Look-ups and pages of a file, beside the journal that writes it."""

import sqlite3
import threading
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from tests.stores.sqlite.files import Calls, journal_of, opened
from tests.support import NOON, SUCCEEDED, make_job
from trio_jobs import Ending, Job, JobError, JobStatus, Outcome
from trio_jobs.job import IdempotencyKey
from trio_jobs.pool.job_query import ALL_JOBS, JobQuery, Order, end_position
from trio_jobs.stores.sqlite.reads import FileReader
from trio_jobs.stores.sqlite.record_writer import RecordWriter
from trio_jobs.stores.sqlite.store_file import StoreFile, connect


def ended(job_id: str, outcome: Outcome, *, key: str | None = None) -> Job:
    ending = SUCCEEDED
    if outcome is not Outcome.SUCCEEDED:
        ending = Ending(outcome=outcome, error=JobError(type="E", message="m"))
    return replace(
        make_job(job_id, payload=b"[1]"),
        status=JobStatus.COMPLETED,
        completed_at=NOON,
        ending=ending,
        key=None if key is None else IdempotencyKey(text=key, digest=b""),
    )


JOBS = [
    (1, ended("a", Outcome.SUCCEEDED, key="ka")),
    (2, ended("b", Outcome.FAILED)),
    (4, make_job("d")),
    (5, ended("e", Outcome.INTERRUPTED, key="ke")),
    (6, ended("f", Outcome.SUCCEEDED)),
    (7, ended("g", Outcome.FAILED)),
    (8, make_job("h", type="other")),
    (9, make_job("i", type="other")),
]
LIVE = [JobStatus.PENDING, JobStatus.PROCESSING]
LATER = NOON + timedelta(microseconds=1)
AT_NOON = end_position(JOBS[1][1])[:16]
NO_SUCCESS = [outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[StoreFile]:
    with opened(tmp_path / "jobs.db") as file:
        RecordWriter(file.connection).write(JOBS)
        yield file


@pytest.fixture
def reader(file: StoreFile) -> Iterator[FileReader]:
    reader = FileReader(file)
    yield reader
    reader.close()


async def test_jobs_are_found_as_they_are(reader: FileReader) -> None:
    assert await reader.find_many(["e"]) == [JOBS[3]]
    assert await reader.find_many(["c"]) == await reader.find_many([]) == []
    many = [f"{n}" for n in range(2000)]
    assert sorted(await reader.find_many(["g", *many, "a", "d"])) == [JOBS[0], JOBS[2], JOBS[5]]


async def test_jobs_are_found_by_their_keys(reader: FileReader) -> None:
    texts = ["ke", "nobody's", "ka", *(f"k{n}" for n in range(2000))]

    assert {job.id for job in await reader.find_keys(texts)} == {"a", "e"}
    assert await reader.find_keys([]) == []


@pytest.mark.parametrize(
    ("after", "limit", "wanted", "expected"),
    [
        (None, 10, {}, "abdefghi"),
        (None, 2, {}, "ab"),
        ("b", 2, {}, "de"),
        ("c", 2, {}, "de"),
        ("i", 2, {}, ""),
        ("zz", 2, {}, ""),
        (None, 10, {"outcomes": [Outcome.FAILED]}, "bg"),
        (None, 1, {"outcomes": [Outcome.FAILED, Outcome.FAILED]}, "b"),
        ("b", 10, {"outcomes": [Outcome.FAILED, Outcome.INTERRUPTED]}, "eg"),
        ("a", 2, {"outcomes": [*NO_SUCCESS]}, "be"),
        (None, 2, {"outcomes": [Outcome.SUCCEEDED, Outcome.FAILED]}, "ab"),
        (None, 10, {"outcomes": [Outcome.CANCELLED]}, ""),
        (None, 10, {"statuses": LIVE}, "dhi"),
        ("d", 1, {"statuses": LIVE}, "h"),
        (None, 10, {"statuses": LIVE, "outcomes": [Outcome.FAILED]}, ""),
        (None, 10, {"types": ["other"]}, "hi"),
        (None, 10, {"types": ["other", "test", "third"]}, "abdefghi"),
        (None, 10, {"types": ["third"]}, ""),
        ("h", 10, {"types": ["other"], "statuses": LIVE}, "i"),
        ("b", 10, {"types": ["test"], "outcomes": [*NO_SUCCESS]}, "eg"),
        (None, 3, {"order": "newest"}, "ihg"),
        ("g", 10, {"order": "newest"}, "fedba"),
        ("c", 10, {"order": "newest"}, "ba"),
        ("a", 10, {"order": "newest"}, ""),
        (None, 10, {"order": "newest", "outcomes": [*NO_SUCCESS]}, "geb"),
        ("g", 10, {"order": "newest", "outcomes": [*Outcome]}, "feba"),
        ("h", 10, {"order": "newest", "statuses": LIVE}, "d"),
        (None, 10, {"order": "newest", "types": ["other"]}, "ih"),
        (None, 10, {"since": NOON}, "abdefghi"),
        (None, 10, {"until": NOON}, ""),
        (None, 2, {"since": NOON, "until": LATER, "order": "newest"}, "ih"),
        (None, 10, {"since": LATER}, ""),
        # All of them have ended at noon.
        (None, 10, {"order": "ended"}, "geb"),
        (AT_NOON + "-g", 10, {"order": "ended"}, "eb"),
        (AT_NOON + "-f", 1, {"order": "ended"}, "e"),
        (AT_NOON + "-b", 10, {"order": "ended"}, ""),
        ("0" * 16 + "-g", 10, {"order": "ended"}, ""),
        ("7" + "f" * 15 + "-g", 10, {"order": "ended"}, "geb"),
        (None, 10, {"order": "ended", "outcomes": [Outcome.FAILED]}, "gb"),
        (None, 10, {"order": "ended", "types": ["other"]}, ""),
        (None, 10, {"order": "ended", "since": NOON}, "geb"),
        (None, 10, {"order": "ended", "since": LATER}, ""),
        (None, 10, {"order": "ended", "until": NOON}, ""),
        (None, 10, {"order": "ended", "until": LATER}, "geb"),
        (AT_NOON + "-g", 10, {"order": "ended", "until": LATER}, "eb"),
        (AT_NOON + "-g", 10, {"order": "ended", "until": NOON}, ""),
        (None, 10, {"order": "ended", "statuses": LIVE}, ""),
        # The caller chooses then.
        (None, 10, {"types": ["other", "\ud800"]}, "abdefghi"),
        (None, 10, {"types": [f"{n}" for n in range(100_000)]}, "abdefghi"),
    ],
)
async def test_page(
    after: str | None, limit: int, wanted: dict[str, Any], expected: str, reader: FileReader
) -> None:
    wanted = dict(wanted)
    order = Order(wanted.pop("order", "oldest"))
    page = await reader.page(JobQuery(order=order, **wanted), after=after, limit=limit)

    assert "".join(job.id for job in page) == expected


@pytest.mark.parametrize(
    ("wanted", "numbers", "unfinished"),
    [
        ({}, {"succeeded": 2, "failed": 2, "interrupted": 1}, "dhi"),
        ({"statuses": LIVE}, {}, "dhi"),
        ({"statuses": [JobStatus.COMPLETED]}, {"succeeded": 2, "failed": 2, "interrupted": 1}, ""),
        ({"types": ["other"]}, {}, "hi"),
        ({"outcomes": [Outcome.FAILED]}, {"failed": 2}, ""),
        ({"outcomes": [Outcome.FAILED, Outcome.SUCCEEDED]}, {"succeeded": 2, "failed": 2}, ""),
        ({"outcomes": [Outcome.FAILED], "statuses": LIVE}, {}, ""),
        ({"order": Order.NEWEST, "rerun": False, "since": LATER}, {}, ""),
        ({"order": Order.NEWEST, "until": LATER, "types": ["other"]}, {}, "hi"),
        ({"order": Order.ENDED}, {"failed": 2, "interrupted": 1}, ""),
        (
            {"order": Order.ENDED, "since": NOON, "until": LATER},
            {"failed": 2, "interrupted": 1},
            "",
        ),
        ({"order": Order.ENDED, "until": NOON}, {}, ""),
        ({"order": Order.ENDED, "since": LATER}, {}, ""),
        ({"order": Order.ENDED, "outcomes": [Outcome.INTERRUPTED]}, {"interrupted": 1}, ""),
    ],
)
async def test_counts(
    wanted: dict[str, Any], numbers: dict[str, int], unfinished: str, reader: FileReader
) -> None:
    ended, jobs = await reader.count(JobQuery(**wanted))

    assert ended == {("test", Outcome(outcome)): number for outcome, number in numbers.items()}
    assert "".join(job.id for job in jobs) == unfinished
    # The connection can be used again.
    assert await reader.count(JobQuery(**wanted)) == (ended, jobs)


async def test_page_has_neither_payloads_nor_results(reader: FileReader) -> None:
    (job,) = await reader.page(ALL_JOBS, after=None, limit=1)

    assert job.payload == b"null"
    assert job.ending == Ending(outcome=Outcome.SUCCEEDED)


async def test_what_has_landed_is_found(tmp_path: Path) -> None:
    found: list[object] = []
    with opened(tmp_path / "jobs.db") as file:
        reader = FileReader(file)
        async with journal_of(file, Calls()) as journal:
            for seq in range(1, 50):
                journal.append([(seq, make_job(f"{seq:03}"))], landed=lambda: None)
                await journal.settled()
                found.extend(await reader.find_many([f"{seq:03}"]))
        reader.close()

    assert found == [(seq, make_job(f"{seq:03}")) for seq in range(1, 50)]


async def test_no_sql_runs_in_the_thread_of_the_event_loop(file: StoreFile) -> None:
    threads: set[int] = set()

    def connect_traced(name: str) -> sqlite3.Connection:
        connection = connect(name)
        connection.set_trace_callback(lambda _: threads.add(threading.get_ident()))
        return connection

    reader = FileReader(file, connect=connect_traced)
    await reader.find_many(["a"])
    await reader.find_keys(["ka"])
    await reader.page(ALL_JOBS, after=None, limit=5)
    reader.close()

    assert threads
    assert threading.get_ident() not in threads


async def test_cancel_does_not_wait_for_a_disk_that_hangs(file: StoreFile) -> None:
    go, closed = threading.Event(), threading.Event()

    class Slow(sqlite3.Connection):
        def close(self) -> None:
            super().close()
            closed.set()

    def connect_slow(name: str) -> sqlite3.Connection:
        connection = sqlite3.connect(name, uri=True, check_same_thread=False, factory=Slow)
        connection.set_trace_callback(lambda _: go.wait(60))
        return connection

    reader = FileReader(file, connect=connect_slow)
    with trio.move_on_after(0.01) as scope:
        await reader.find_many(["a"])
    reader.close()
    go.set()

    assert scope.cancelled_caught
    with trio.fail_after(60):
        assert await trio.to_thread.run_sync(closed.wait)


async def test_many_reads_share_four_connections(file: StoreFile) -> None:
    opened_connections: list[str] = []

    def connect_counted(name: str) -> sqlite3.Connection:
        opened_connections.append(name)
        return connect(name)

    reader = FileReader(file, connect=connect_counted)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(reader.find_many, ["a"])
    reader.close()

    assert 1 <= len(opened_connections) <= 4


async def test_readers_cannot_write(file: StoreFile) -> None:
    reader = FileReader(file)

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM jobs")

    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await reader._read(write)


# A history of so many jobs, of which every tenth has not succeeded, behind a few pending ones.
HISTORIES = (1_000, 20_000)
LOOK_UPS: dict[str, Callable[[FileReader, int], Awaitable[object]]] = {
    "a job": lambda reader, size: reader.find_many([long_id(size // 2)]),
    "a key": lambda reader, size: reader.find_keys([f"key {size // 2}"]),
    "no key": lambda reader, _: reader.find_keys(["nobody's"]),
    "first page": lambda reader, _: reader.page(ALL_JOBS, after=None, limit=100),
    "page": lambda reader, size: reader.page(ALL_JOBS, after=long_id(size // 2), limit=100),
    "the dead": lambda reader, _: reader.page(JobQuery(outcomes=NO_SUCCESS), after=None, limit=50),
    "the dead, later": lambda reader, size: reader.page(
        JobQuery(outcomes=NO_SUCCESS), after=long_id(size // 2), limit=20
    ),
    "a rare outcome": lambda reader, _: reader.page(
        JobQuery(outcomes=[Outcome.INTERRUPTED]), after=None, limit=100
    ),
    "unfinished": lambda reader, _: reader.page(JobQuery(statuses=LIVE), after=None, limit=100),
    "unfinished of a type": lambda reader, _: reader.page(
        JobQuery(statuses=LIVE, types=["nobody's"]), after=None, limit=100
    ),
    "newest": lambda reader, _: reader.page(JobQuery(order=Order.NEWEST), after=None, limit=100),
    "newest, later": lambda reader, size: reader.page(
        JobQuery(order=Order.NEWEST), after=long_id(size // 2), limit=100
    ),
    "the newest dead": lambda reader, _: reader.page(
        JobQuery(order=Order.NEWEST, outcomes=NO_SUCCESS), after=None, limit=20
    ),
    "the newest unfinished": lambda reader, _: reader.page(
        JobQuery(order=Order.NEWEST, statuses=LIVE), after=None, limit=10
    ),
    "last ends": lambda reader, _: reader.page(JobQuery(order=Order.ENDED), after=None, limit=20),
    "last ends, later": lambda reader, size: reader.page(
        JobQuery(order=Order.ENDED), after=end_of(size // 2), limit=20
    ),
    "last ends until": lambda reader, size: reader.page(
        JobQuery(order=Order.ENDED, until=long_end(size // 2)), after=None, limit=20
    ),
    "ends since": lambda reader, size: reader.page(
        JobQuery(order=Order.ENDED, since=long_end(size - 100)), after=None, limit=100
    ),
}


def long_id(number: int) -> str:
    return f"{number:08}"


def long_end(number: int) -> datetime:
    return NOON + timedelta(seconds=number)


def end_of(number: int) -> str:
    return end_position(
        replace(ended(long_id(number), Outcome.FAILED), completed_at=long_end(number))
    )


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    found = {}
    for size in HISTORIES:
        found[size] = tmp_path_factory.mktemp("history") / "jobs.db"
        outcomes = [Outcome.FAILED] + [Outcome.SUCCEEDED] * 9
        jobs = [
            (
                n,
                replace(
                    ended(long_id(n), outcomes[n % 10], key=f"key {n}"), completed_at=long_end(n)
                ),
            )
            for n in range(1, size + 1)
        ]
        pending = [(n, make_job(long_id(n))) for n in range(size + 1, size + 20)]
        with opened(found[size]) as file:
            file.connection.execute("PRAGMA synchronous = off")
            RecordWriter(file.connection).write([*jobs, *pending])
    return found


@pytest.mark.parametrize("name", LOOK_UPS)
async def test_look_up_takes_no_more_steps_in_a_long_history(
    name: str, histories: dict[int, Path]
) -> None:
    steps = {}
    for size, path in histories.items():
        counted = [0]

        def connect_counted(name: str, counted: list[int] = counted) -> sqlite3.Connection:
            def count() -> None:
                counted[0] += 1

            connection = connect(name)
            connection.set_progress_handler(count, 1)  # of SQLite's virtual machine
            return connection

        with opened(path) as file:
            reader = FileReader(file, connect=connect_counted)
            assert isinstance(await LOOK_UPS[name](reader, size), list)
            reader.close()
        steps[size] = counted[0]

    small, large = HISTORIES
    assert 0 < steps[large] <= 1.1 * steps[small]


@pytest.mark.parametrize("name", LOOK_UPS)
async def test_look_up_uses_an_index_and_sorts_nothing(name: str, file: StoreFile) -> None:
    statements: list[str] = []

    def connect_traced(name: str) -> sqlite3.Connection:
        connection = connect(name)
        connection.set_trace_callback(statements.append)
        return connection

    reader = FileReader(file, connect=connect_traced)
    await LOOK_UPS[name](reader, 10)
    reader.close()

    plan = [row[-1] for row in file.connection.execute(f"EXPLAIN QUERY PLAN {statements[-1]}")]
    assert any(line.startswith("SEARCH jobs USING") for line in plan)
    assert [line for line in plan if "SCAN jobs" in line or "B-TREE" in line] == []
