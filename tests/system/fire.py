"""Handlers and clients for a server over a file that is killed under fire."""

import json
import random
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.command import Command

# Each start and end of a handler is a line of the ledger: one write, which outlives the process.
HANDLERS = """
import os
import time

import trio
from trio_jobs import JobContext

LIFE = os.environ["LIFE"]
FOLDER = os.path.dirname(os.path.abspath(__file__))


def note(name, attempt=0):
    ledger = os.open(f"{FOLDER}/ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(ledger, f"{name} {attempt} {LIFE}\\n".encode())
    os.close(ledger)


async def quick(name: str) -> str:
    note(name)
    return name


async def slow(name: str) -> str:
    note(name)
    await trio.sleep(0.05)
    return name


def in_thread(name: str) -> str:
    note(name)
    time.sleep(0.02)
    return name


def in_process(name: str) -> str:
    return in_thread(name)


def once_in_thread(name: str) -> str:
    return in_thread(name)


def once_in_process(name: str) -> str:
    return in_thread(name)


async def flaky(name: str, context: JobContext) -> str:
    note(name, context.attempt)
    if context.attempt < 3:
        raise OSError("not yet")
    return name


async def once(name: str) -> str:
    return await slow(name)


async def fails(name: str) -> None:
    raise ValueError(name)
"""

CREATED, NO_CONTENT = 201, 204

ONCE = ("once", "once_in_thread", "once_in_process")
_COMPLETED = 2

REPEATABLE = ("quick", "slow", "in_thread", "in_process", "flaky")


def configuration(*, workers: int, buffer_size: int, drain: str = "running") -> str:
    """The server's ``config.toml``."""
    return f"""
[pool]
workers = {workers}
buffer_size = {buffer_size}
processes = 1
grace_period = 60
drain = "{drain}"
[store]
path = "jobs.db"
keep_completed = 1_000_000
keep_failed = 1_000_000
[handlers]
quick = "work:quick"
slow = "work:slow"
in_thread = "work:in_thread"
in_process = {{ call = "work:in_process", run = "process" }}
once = {{ call = "work:once", repeatable = false, max_interruptions = 1_000 }}
once_in_thread = {{ call = "work:once_in_thread", repeatable = false }}
once_in_process = {{ call = "work:once_in_process", repeatable = false, run = "process" }}
fails = "work:fails"
[handlers.flaky]
call = "work:flaky"
retry = {{ attempts = 3, backoff = [0.01] }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """What all clients know.

    Attributes:
        accepted: The ids that an answer had.
        streamed: How many jobs the answers of streams have counted.
        ids: The id that a key has got.
        completed: Jobs that a client has seen completed.
        statuses: How often each status came.
        unanswered: Submissions with keys that got no answer, to be repeated.
        reruns: By the old job's id, the new one's that an answer had.
        cancelling: Jobs whose cancel a client has requested, long before they are due.
        cancelled: Those of them whose cancel was answered.
        deleting: Jobs whose deletion a client has requested.
        deleted: Those of them whose deletion was answered.
    """

    accepted: set[str] = field(default_factory=set)
    streamed: list[int] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    completed: dict[str, str] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: list[list[dict[str, object]]] = field(default_factory=list)
    reruns: dict[str, str] = field(default_factory=dict)
    cancelling: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    deleting: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


class Client:
    """Submits jobs of all kinds until the server is gone."""

    def __init__(self, accounts: Accounts, name: str, seed: int) -> None:
        self._accounts = accounts
        self._name = name
        self._random = random.Random(seed)  # noqa: S311
        self._count = 0

    async def run(self, server: Command, *, requests: int) -> None:
        """Send up to so many requests."""
        accounts = self._accounts
        with suppress(httpx.HTTPError):
            while accounts.unanswered:
                await self._batch(server, accounts.unanswered.pop())
            for _ in range(requests):
                kind = self._random.random()
                if kind < 0.5:
                    await self._single(server, self._item())
                elif kind < 0.65:
                    await self._batch(server, [self._item() for _ in range(5)])
                elif kind < 0.75:
                    await self._stream(server)
                elif kind < 0.8:
                    await self._cancel(server)
                elif kind < 0.9:
                    await self._rerun_or_delete(server)
                else:
                    await self._look(server)

    async def run_quick(self, server: Command, *, requests: int) -> None:
        """Send up to so many jobs, one by one, that end at once."""
        with suppress(httpx.HTTPError):
            for _ in range(requests):
                await self._single(server, {"type": "quick", "payload": self._next_payload()})

    def _next_payload(self) -> str:
        self._count += 1
        return f"{self._name}-{self._count}"

    def _item(self) -> dict[str, object]:
        job_type = self._random.choice(REPEATABLE + ONCE)
        item: dict[str, object] = {"type": job_type, "payload": self._next_payload()}
        if self._random.random() < 0.2:
            item["delay"] = 0.1
        if self._random.random() < 0.7:
            item["key"] = item["payload"]
        return item

    async def _single(self, server: Command, item: dict[str, object]) -> None:
        key = item.pop("key", None)
        headers = {} if key is None else {"Idempotency-Key": str(key)}
        try:
            answer = await server.client.post("/jobs", json=item, headers=headers)
        except httpx.HTTPError:
            if key is not None:
                self._accounts.unanswered.append([{**item, "key": key}])
            raise
        self._accounts.statuses[answer.status_code] += 1
        if answer.status_code == 201:
            self._note([{**item, "key": key}], [answer.json()])

    async def _batch(self, server: Command, items: list[dict[str, object]]) -> None:
        keyed = [item for item in items if "key" in item]
        try:
            answer = await server.client.post("/jobs/batch", json=items)
        except httpx.HTTPError:
            if keyed:
                self._accounts.unanswered.append(keyed)
            raise
        self._accounts.statuses[answer.status_code] += 1
        if answer.status_code == 201:
            self._note(items, answer.json())
        elif keyed:
            self._accounts.unanswered.append(keyed)

    async def _stream(self, server: Command) -> None:
        lines = b"".join(json.dumps(self._item()).encode() + b"\n" for _ in range(8))
        answer = await server.client.post("/jobs/stream", content=lines)
        self._accounts.statuses[answer.status_code] += 1
        if "accepted" in answer.json():
            self._accounts.streamed.append(answer.json()["accepted"])

    async def _cancel(self, server: Command) -> None:
        """Cancel a job seconds before it is due."""
        item = {"type": "quick", "payload": self._item()["payload"], "delay": 15}
        answer = await server.client.post("/jobs", json=item)
        if answer.status_code != CREATED:
            return
        job_id = answer.json()["id"]
        self._accounts.accepted.add(job_id)
        self._accounts.cancelling.add(job_id)
        answer = await server.client.post(f"/jobs/{job_id}/cancel")
        if answer.status_code in (200, 202):
            self._accounts.cancelled.add(job_id)

    async def _rerun_or_delete(self, server: Command) -> None:
        """Let a job fail; then submit it once more, or forget it."""
        item = {"type": "fails", "payload": self._item()["payload"]}
        answer = await server.client.post("/jobs", json=item, headers={"Prefer": "wait=5"})
        if answer.status_code != CREATED:
            return
        job_id = answer.json()["id"]
        if answer.json()["status"] == "completed" and self._random.random() < 0.5:
            self._accounts.deleting.add(job_id)
            answer = await server.client.delete(f"/jobs/{job_id}")
            if answer.status_code == NO_CONTENT:
                self._accounts.deleted.add(job_id)
            return
        self._accounts.accepted.add(job_id)
        answer = await server.client.post(f"/jobs/{job_id}/rerun")
        if answer.status_code == CREATED:
            self._accounts.reruns[job_id] = answer.json()["id"]
            self._accounts.accepted.add(answer.json()["id"])

    async def _look(self, server: Command) -> None:
        answer = await server.client.get("/jobs", params={"limit": 100})
        for job in answer.json():
            if job["status"] == "completed":
                self._accounts.completed[job["id"]] = job["outcome"]

    def _note(self, items: list[dict[str, object]], jobs: list[dict[str, object]]) -> None:
        for item, job in zip(items, jobs, strict=True):
            job_id = str(job["id"])
            self._accounts.accepted.add(job_id)
            key = item.get("key")
            if key is not None:
                assert self._accounts.ids.setdefault(str(key), job_id) == job_id, item


def is_quick(life: int) -> bool:
    """Whether the clients of this life submit quick jobs alone; see `shoot`."""
    return life % 3 == 0


async def fire(server: Command, accounts: Accounts, *, life: int, seconds: float) -> None:
    """Let clients submit for so long, and then kill the server."""
    with trio.move_on_after(seconds):
        await shoot(server, accounts, life=life, requests=1_000)
    server.process.kill()
    await server.process.wait()


async def shoot(server: Command, accounts: Accounts, *, life: int, requests: int) -> None:
    """Let eight clients submit jobs of all kinds; in each third life, more of them quick ones.

    Then eight jobs and more come to the disk together, and begin later than their clients know.
    """
    quick = is_quick(life)
    async with trio.open_nursery() as nursery:
        for n in range(24 if quick else 8):
            client = Client(accounts, f"{life}-{n}", life * 100 + n)
            run = client.run_quick if quick else client.run
            nursery.start_soon(partial(run, server, requests=requests))


def starts(folder: Path) -> list[tuple[str, str, str]]:
    """Each start in the ledger: the job's payload, the attempt (0 if unknown), the life."""
    path = folder / "ledger"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(name, attempt, life) for name, attempt, life in (line.split() for line in lines)]


Row = Mapping[str, Any]


def rows(folder: Path) -> dict[str, Row]:
    """The jobs in the file, by id, with their payloads."""
    connection = sqlite3.connect(f"file:{folder / 'jobs.db'}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        query = "SELECT * FROM jobs JOIN payloads USING (seq)"
        return {row["id"]: dict(row) for row in connection.execute(query)}
    finally:
        connection.close()


def check(folder: Path, accounts: Accounts, *, kept: bool = False) -> None:
    """Check the clients' accounts, the handlers' ledger and the file against one another.

    Args:
        folder: The server's.
        accounts: The clients'.
        kept: Whether jobs may be left that have not completed.
    """
    jobs = rows(folder)
    assert accounts.accepted <= jobs.keys()
    keys = {row["key"]: job_id for job_id, row in jobs.items() if row["key"] is not None}
    assert accounts.ids.items() <= keys.items()
    assert len(jobs) >= len(accounts.accepted) + sum(accounts.streamed)
    for job_id, outcome in accounts.completed.items():
        assert job_id in accounts.deleting or jobs[job_id]["outcome"] == outcome, job_id
    # What was answered holds, and each job is re-run once.
    assert not accounts.deleted & jobs.keys()
    for old, new in accounts.reruns.items():
        assert (jobs[old]["rerun_as"], jobs[new]["rerun_of"]) == (new, old)
    rerun = [row["rerun_of"] for row in jobs.values() if row["rerun_of"] is not None]
    assert len(rerun) == len(set(rerun))
    # No job was made twice of one submission, and none began that is not in the file.
    names = Counter(json.loads(row["payload"]) for row in jobs.values() if row["rerun_of"] is None)
    assert max(names.values(), default=1) == 1  # a stop may come before the first
    begun = Counter(name for name, _, _ in starts(folder))
    assert begun.keys() <= names.keys()
    # Within one life no attempt begins twice.
    assert max(Counter(starts(folder)).values(), default=1) == 1
    for job_id, row in jobs.items():
        assert kept or row["status"] == _COMPLETED, row
        times = begun[json.loads(row["payload"])]
        if job_id in accounts.cancelled:
            assert times == 0, row
            assert row["cancel_requested"], row
            assert row["outcome"] in (None, "cancelled"), row
        elif row["type"] == "fails":
            assert row["outcome"] in (None, "failed", "interrupted"), row
        elif job_id not in accounts.cancelling or row["outcome"] != "cancelled":
            _check_job(row, times)


def _check_job(row: Row, begun: int) -> None:
    completed = row["status"] == _COMPLETED
    if row["type"] in ONCE:
        assert begun <= 1, row
        assert not completed or row["outcome"] in ("succeeded", "interrupted"), row
    else:
        # A claim that a crash has taken back was not counted; it is the only one, since the next
        # claims are on the disk before the handler begins.
        assert begun <= row["attempts"] + 1, row
        assert not completed or row["outcome"] == "succeeded" or row["interruptions"] >= 3, row
    assert begun or not completed or row["outcome"] == "interrupted", row
