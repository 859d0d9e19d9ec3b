"""No SQL runs in the event loop's thread: a disk that is slow holds up no task."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.stores.sqlite.files import read
from tests.support import NOON, SUCCEEDED, HttpSettings, PoolSettings, StoreSettings
from trio_jobs import Handler, IdempotencyKey, Job, Outcome, open_jobs
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.pool.wiring import make_pool
from trio_jobs.store_in_file import RecoveredFile
from trio_jobs.stores.durable_store import DurableStore
from trio_jobs.stores.sqlite.journal import Journal
from trio_jobs.stores.sqlite.reads import FileReader
from trio_jobs.stores.sqlite.store_file import connect, open_store_file
from trio_jobs.testing import Client


async def fail(_: object) -> None:
    raise OSError


async def ended(pool: Pool, job_id: str) -> Job:
    job = await pool.store.find(job_id)
    if job.outcome is None:
        with pool.waiters.subscribe(job_id) as completion:
            await completion.wait()
        job = await pool.store.find(job_id)
    return job


async def test_no_statement_runs_in_the_event_loops_thread(tmp_path: Path) -> None:
    loop = threading.get_ident()
    statements: list[tuple[bool, str]] = []
    failures: list[Exception] = []

    def traced(name: str) -> sqlite3.Connection:
        connection = connect(name)
        connection.set_trace_callback(
            lambda text: statements.append((threading.get_ident() == loop, text))
        )
        return connection

    file = open_store_file(tmp_path / "jobs.db", connect=traced)
    journal = Journal(file, failed=failures.append)
    reader = FileReader(file, connect=traced)
    statements.clear()
    send, receive = trio.open_memory_channel[str](20)
    store = DurableStore(
        journal,
        reader,
        [],
        last_seq=0,
        repeatable=lambda _: False,
        timeout=10.0,
        now=utc_now,
        soon=trio.lowlevel.current_trio_token().run_sync_soon,
    )
    handlers = HandlerRegistry({"test": Handler.of(fail)})
    settings = PoolSettings(workers=2, buffer_size=10)
    pool = make_pool(handlers, send, store, settings, StoreSettings(), HttpSettings())
    journal.start()
    key = IdempotencyKey(text="k", digest=b"")

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(pool.workers.run, receive.clone())
        receive.close()
        nursery.start_soon(pool.run_schedule)
        first = await pool.admission.admit(JobSpec("test", b"1", key=key))
        assert (await ended(pool, first.id)).outcome is Outcome.FAILED
        assert (await store.find_keys(["k"]))["k"].id == first.id
        [again] = await pool.admission.admit_all([JobSpec("test", b"1", rerun_of=first.id)])
        later = await pool.admission.admit(JobSpec("test", b"2", NOON.replace(year=2100)))
        await pool.cancel(later.id)
        await ended(pool, again.id)
        await ended(pool, later.id)
        await store.delete(first.id)
        assert [job.id for job in await store.page(limit=10)] == [again.id, later.id]
        pool.admission.close()
    assert await journal.close(10)
    reader.close()
    file.close()

    assert failures == []
    assert len(statements) > 20
    assert [text for in_loop, text in statements if in_loop] == []


async def test_program_with_a_file_runs_no_statement_in_the_event_loops_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = threading.get_ident()
    statements: dict[bool, list[str]] = {True: [], False: []}
    plain = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401
        connection: sqlite3.Connection = plain(*arguments, **options)
        connection.set_trace_callback(
            lambda text: statements[threading.get_ident() == loop].append(text)
        )
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    path = tmp_path / "jobs.db"
    async with open_jobs({"test": fail}, path=path, keep_failed=3) as jobs:
        client = Client(jobs.asgi())
        first = await jobs.submit("test", key="k")
        await jobs.wait(first.id)
        await jobs.submit("test", key="k")
        again = await jobs.rerun(first.id)
        await jobs.wait(again.id)
        await jobs.rerun_all(outcome=["failed"])
        late = await jobs.submit("test", delay=1000)
        await jobs.cancel(late.id)
        await jobs.wait(late.id)
        await jobs.delete(late.id)
        await jobs.submit_when_possible("test")
        for target in (f"/jobs/{first.id}", "/jobs", "/jobs?type=test&limit=1", "/health/ready"):
            await client.get(target)
        for query in ("status=pending", "outcome=failed", "outcome=failed&outcome=cancelled"):
            assert (await client.get(f"/jobs?{query}")).status == 200
        batch = b'[{"type": "test", "key": "k"}, {"type": "test", "key": "l"}]'
        assert (await client.post("/jobs/batch", batch)).status == 201
        assert (await client.post("/jobs/stream", b'{"type": "test"}\n' * 9)).status == 201

    assert statements[True] == []
    for word in ("INSERT INTO jobs", "UPDATE", "DELETE FROM jobs", "UNION ALL", "type IN", "meta"):
        assert any(word in text for text in statements[False]), word


async def test_end_of_the_last_step_is_written_by_the_close(tmp_path: Path) -> None:
    handlers = HandlerRegistry({"test": Handler.of(fail)})
    bounds = StoreSettings()
    file = RecoveredFile(tmp_path / "jobs.db", handlers, bounds, now=utc_now)
    opened = file.open(failed=print)
    send, receive = trio.open_memory_channel[str](20)
    settings = PoolSettings(workers=2, buffer_size=10)
    pool = make_pool(handlers, send, opened.store, settings, bounds, HttpSettings())
    opened.start(pool)
    job = await pool.admission.admit(JobSpec("test", b"1"))

    opened.store.claim(job.id)
    opened.store.complete(job.id, SUCCEEDED)
    written = await opened.close(pool, seconds=10)
    receive.close()

    assert written
    assert [each.outcome for _, each in read(tmp_path / "jobs.db")] == [Outcome.SUCCEEDED]
