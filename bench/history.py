"""Row 20: look-ups and pages of a file, by the number of jobs in it."""

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import trio

from bench.disk import new_folder, no_disk
from bench.measuring import Spread, ratio
from bench.row import Missing, Result, Row, at_most
from trio_jobs.job import Ending, IdempotencyKey, Job, JobError, JobStatus, Outcome
from trio_jobs.pool.job_query import ALL_JOBS, JobQuery
from trio_jobs.stores.sqlite.reads import FileReader
from trio_jobs.stores.sqlite.record_writer import RecordWriter
from trio_jobs.stores.sqlite.store_file import StoreFile, open_store_file

SIZES = (1_000, 1_000_000)

# So many operations of one kind are measured together; a turn is the median of so many blocks.
_BLOCK = 20
_BLOCKS_PER_TURN = 15

# Every tenth job has failed, and the last few are pending.
_DEAD, _PENDING = 10, 100
_NO_SUCCESS = [outcome for outcome in Outcome if outcome is not Outcome.SUCCEEDED]
_UNFINISHED = [JobStatus.PENDING, JobStatus.PROCESSING]
_NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

# By name: reads the file, given the number of one of its jobs.
_Operations = dict[str, Callable[[FileReader, int], Awaitable[object]]]
_OPERATIONS: _Operations = {
    "look-up of a key": lambda reader, number: reader.find_keys([_key(number)]),
    "get": lambda reader, number: reader.find_many([_id(number)]),
    "page of 100": lambda reader, number: reader.page(ALL_JOBS, after=_id(number), limit=100),
    # In the small file, too, so many of these are behind any job of the first half.
    "page of 40 without success": lambda reader, number: reader.page(
        JobQuery(outcomes=_NO_SUCCESS), after=_id(number // 2), limit=40
    ),
    "page of 100 unfinished jobs": lambda reader, _: reader.page(
        JobQuery(statuses=_UNFINISHED), after=None, limit=100
    ),
}


def measure(*, sizes: Sequence[int] = SIZES, turns: int = 9) -> list[Result]:
    """Measure the row.

    Args:
        sizes: How many jobs the files have.
        turns: How often each file has its turn.
    """
    if (reason := no_disk()) is not None:
        return [Missing(number=20, what="look-ups and pages of a file", reason=reason)]
    with new_folder() as folder:
        values = trio.run(_micros, folder, sizes, turns)
    small, large = min(sizes), max(sizes)
    return [
        Row(
            number=20,
            what=f"{operation} in a file of {large:,} jobs",
            against=f"of {small:,}",
            figure=ratio(by_size[large], by_size[small]),
            reach=at_most(2),
            sides={f"{size:,} jobs": Spread.of(each) for size, each in by_size.items()},
            sides_unit=" µs",
        )
        for operation, by_size in values.items()
    ]


async def _micros(
    folder: Path, sizes: Sequence[int], turns: int
) -> dict[str, dict[int, list[float]]]:
    """The microseconds of each operation on each file, turn by turn."""
    files = {size: open_store_file(folder / f"{size}.db", sync="normal") for size in sizes}
    readers = {size: FileReader(file) for size, file in files.items()}
    values: dict[str, dict[int, list[float]]] = {
        operation: {size: [] for size in sizes} for operation in _OPERATIONS
    }
    for size, file in files.items():
        _fill(file, size)
    chance = random.Random(0)  # noqa: S311  (which jobs are looked at)
    for _ in range(turns):
        for operation, read in _OPERATIONS.items():
            blocks: dict[int, list[float]] = {size: [] for size in sizes}
            for _ in range(_BLOCKS_PER_TURN):
                for size, reader in readers.items():
                    numbers = chance.choices(range(1, size - 2 * _PENDING), k=_BLOCK)
                    began = time.perf_counter()
                    for number in numbers:
                        await read(reader, number)
                    blocks[size].append((time.perf_counter() - began) / _BLOCK * 1e6)
            for size, each in blocks.items():
                values[operation][size].append(median(each))
    for size, file in files.items():
        readers[size].close()
        file.close()
    return values


def _fill(file: StoreFile, size: int) -> None:
    """Write some jobs as the server does, and let SQLite make the others of them."""
    first = min(SIZES)
    RecordWriter(file.connection).write(
        [(number, _ended(number)) for number in range(1, first + 1)]
    )
    with closing(file.connection.cursor()) as cursor:
        for begin in range(first, size, first):
            for table in ("jobs", "payloads", "results"):
                _copy(cursor, table, first, begin)
        cursor.execute(
            "UPDATE jobs SET status = 0, outcome = NULL, completed_at = NULL WHERE seq > ?",
            (size - _PENDING,),
        )
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _copy(cursor: Any, table: str, first: int, begin: int) -> None:  # noqa: ANN401
    """Copy the first jobs behind the job with the number ``begin``."""
    changed = {
        "seq": "seq + :begin",
        "id": "printf('019ac8e0-0000-7000-8000-%012x', seq + :begin)",
        "key": "'key ' || (seq + :begin)",
    }
    names = [row[1] for row in cursor.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(name, name) for name in names)
    cursor.execute(
        f"INSERT INTO {table}({', '.join(names)}) "  # noqa: S608
        f"SELECT {values} FROM {table} WHERE seq <= :first",
        {"begin": begin, "first": first},
    )


def _ended(number: int) -> Job:
    failed = Ending(outcome=Outcome.FAILED, error=JobError(type="OSError", message="no route"))
    succeeded = Ending(outcome=Outcome.SUCCEEDED, result=b'{"sent": true}')
    return Job(
        id=_id(number),
        type="email",
        payload=b'{"to": "somebody@example.com"}',
        created_at=_NOON,
        status=JobStatus.COMPLETED,
        started_at=_NOON,
        completed_at=_NOON,
        duration=0.1,
        ending=failed if number % _DEAD == 0 else succeeded,
        attempts=1,
        key=IdempotencyKey(text=_key(number), digest=bytes(32)),
    )


def _id(number: int) -> str:
    return f"019ac8e0-0000-7000-8000-{number:012x}"


def _key(number: int) -> str:
    return f"key {number}"
