"""Three servers over one database, under fire: nothing is lost, runs twice at a time, or hangs.

Servers are killed, stopped and frozen, the database is restarted and its connections are cut, while
clients submit jobs, wait for them and cancel them at any of the servers, and others submit by SQL.
All that happens by chance happens by a seed, and by how many jobs are in: not by a clock.
"""

import json
import math
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import psycopg
import pytest
import trio

from tests.command import PATIENCE, Command, started_command, write_files
from tests.postgres.fixtures import CrashDatabase
from tests.proof.share import share_of
from tests.proof.shared_accounts import Account, Fates, compare, read_ledger

SERVERS: Final = 3
CLIENTS: Final = 24
SQL_CLIENTS: Final = 3

# Seconds; the shortest that a busy machine keeps.
LEASE: Final = 4.0

# Each so many jobs, something fails.
BETWEEN_FAULTS: Final = 100

# Each so many jobs, one is to run in an hour, so that a cancel comes in time on any machine. For
# another one a client is sure to wait.
BETWEEN_LATE: Final = 50

# How often each comes among 16.
FAULTS: Final = {"kill": 6, "stop": 3, "cut": 4, "fast": 1, "immediate": 1, "freeze": 1}

CONFIG: Final = """
[pool]
workers = 8
buffer_size = 20
grace_period = 60

[store]
url = "{url}"
lease = {lease}
timeout = 60

[handlers]
work = {{ call = "work:work", max_interruptions = 1000 }}
flaky = {{ call = "work:flaky", max_interruptions = 1000, retry = {{ attempts = 2, base = 0.01 }} }}
once = {{ call = "work:once", repeatable = false }}
"""


HANDLERS: Final = Path(__file__).with_name("shared_handlers.py").read_text()


@dataclass
class Siege:
    """The servers, their clients, and what harms them.

    Attributes:
        folder: Of the servers.
        database: Which they share.
        jobs: How many jobs there will be.
        chance: What happens by chance.
        servers: Those that accept connections, by number; None for one that does not.
        told: By token, the ids of the jobs that clients were told of.
        fates: What has become of processes.
        asked: How often clients have waited and cancelled, and what came of it.
        faults: How often which fault came.
        logs: What servers have written.
    """

    folder: Path
    database: CrashDatabase
    jobs: int
    chance: random.Random
    servers: list[Command | None] = field(default_factory=lambda: [None] * SERVERS)
    told: dict[str, str] = field(default_factory=dict)
    fates: Fates = field(default_factory=Fates)
    asked: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    logs: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    stopping: bool = False
    _some_are_in: trio.Event = field(default_factory=trio.Event)
    _one_runs: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> Account:
        """All of it; returns what the accounts say in the end."""
        async with trio.open_nursery() as keepers:
            for number in range(SERVERS):
                keepers.start_soon(self._keep, number)
            async with trio.open_nursery() as harm:
                harm.start_soon(self._harm)
                async with trio.open_nursery() as clients:
                    tokens = [f"t{number}" for number in range(self.jobs)]
                    by_sql = iter(tokens[: self.jobs // 4])
                    over_http = iter(tokens[self.jobs // 4 :])
                    for _ in range(CLIENTS):
                        clients.start_soon(self._submit_over_http, over_http)
                    for _ in range(SQL_CLIENTS):
                        clients.start_soon(self._submit_by_sql, by_sql)
                harm.cancel_scope.cancel()
            await self._wait_for_all()
            self.stopping = True
            for server in self.servers:
                if server is not None:
                    server.send(signal.SIGTERM)
        for log in self.logs:
            process, _, lines = log.partition("\n")
            found = re.findall(r" end_refused job_id=(\S+)", lines)
            self.fates.refused[int(process)].update(found)
        return compare(
            self.told, await self._rows(), read_ledger(self.folder / "ledger"), self.fates
        )

    # The servers.

    async def _keep(self, number: int) -> None:
        """A supervisor: starts its server again when that has ended."""
        while not self.stopping:
            async with started_command(self.folder, handlers=HANDLERS) as server:
                try:
                    if not await _comes_up(server):
                        continue  # the database was away, or it was killed meanwhile
                    self.servers[number] = server
                    self._one_runs.set()
                    self._one_runs = trio.Event()
                    if self.stopping:
                        server.send(signal.SIGTERM)
                    status = await server.wait_exit(seconds=7200)
                    if server.process.pid not in self.fates.killed:
                        self.statuses[status] += 1
                finally:
                    self.servers[number] = None
                    self.logs.append(f"{server.process.pid}\n{server.log}")

    async def _any_server(self) -> Command:
        while not (running := [server for server in self.servers if server is not None]):
            await self._one_runs.wait()
        return self.chance.choice(running)

    # The clients.

    def _note(self, token: str, job_id: str) -> None:
        assert self.told.setdefault(token, job_id) == job_id, f"two jobs for {token}"
        self._some_are_in.set()

    def _task(self, token: str) -> tuple[str, dict[str, object]]:
        type_ = self.chance.choices(["work", "flaky", "once"], [8, 1, 1])[0]
        seconds = self.chance.choice([0.001, 0.005, 0.02, 0.02, 0.05])
        if self.chance.random() < 0.003:
            seconds = 1.5
        return type_, {"token": token, "seconds": seconds}

    async def _submit_over_http(self, tokens: Iterator[str]) -> None:
        for token in tokens:
            type_, task = self._task(token)
            body: dict[str, object] = {"type": type_, "payload": task}
            is_late = int(token[1:]) % BETWEEN_LATE == 0
            if is_late:
                body["delay"] = 3600
            key = {"Idempotency-Key": token}
            submit = partial(httpx.AsyncClient.post, url="/jobs", json=body, headers=key)
            answer = await self._ask(submit, {200, 201})
            job_id = answer.json()["id"]
            self._note(token, job_id)
            if is_late or self.chance.random() < 0.012:
                await self._cancel_elsewhere(job_id)
            elif int(token[1:]) % BETWEEN_LATE == 1 or self.chance.random() < 0.05:
                await self._wait_elsewhere(job_id)

    async def _cancel_elsewhere(self, job_id: str) -> None:
        answer = await self._ask(
            lambda client: client.post(f"/jobs/{job_id}/cancel"), {200, 202, 409}
        )
        self.asked[f"cancel {answer.status_code}"] += 1

    async def _wait_elsewhere(self, job_id: str) -> None:
        status = ""
        while status != "completed":  # a wait ends with its server
            answer = await self._ask(
                lambda client: client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=60"}), {200}
            )
            status = answer.json()["status"]
        self.asked["wait"] += 1

    async def _ask(
        self,
        request: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]],
        statuses: set[int],
    ) -> httpx.Response:
        """Ask servers until one has an answer."""
        with trio.fail_after(10 * PATIENCE):
            while True:
                server = await self._any_server()
                try:
                    answer = await request(server.client)
                except (httpx.HTTPError, RuntimeError):  # it has ended, or its client is closed
                    self.asked["gone"] += 1
                else:
                    if answer.status_code in statuses:
                        return answer
                    assert answer.status_code in {429, 503, 504}, answer.text
                    self.asked[str(answer.status_code)] += 1
                await trio.sleep(0.05)

    async def _submit_by_sql(self, tokens: Iterator[str]) -> None:
        for token in tokens:
            type_, task = self._task(token)
            sql = "select trio_jobs.submit(%s, %s::json, key => %s)::text"
            while True:
                try:
                    [(job_id,)] = await self.database.fetch(sql, type_, json.dumps(task), token)
                except psycopg.OperationalError:
                    await trio.sleep(0.1)
                else:
                    self._note(token, job_id)
                    break

    # The harm.

    async def _harm(self) -> None:
        due = BETWEEN_FAULTS
        first, others = list(FAULTS), [name for name, n in FAULTS.items() for _ in range(n - 1)]
        self.chance.shuffle(first)
        self.chance.shuffle(others)
        deck = others + first  # from its end: each comes early
        while True:
            while len(self.told) < due:
                self._some_are_in = trio.Event()
                await self._some_are_in.wait()
            due += BETWEEN_FAULTS
            await self._any_server()
            name = deck.pop() if deck else self.chance.choice(list(FAULTS))
            self.faults[name] += 1
            with trio.CancelScope(shield=True):  # the database starts again, a process goes on
                await self._do_harm(name)

    async def _do_harm(self, name: str) -> None:
        if name in ("fast", "immediate"):
            await self.database.restart(name)  # type: ignore[arg-type]  # it is one of these
            return
        if name == "cut":
            await self.database.fetch(
                "select pg_terminate_backend(pid) from (select pid from pg_stat_activity "
                "where application_name like 'trio-jobs%%' and pid <> pg_backend_pid() "
                "order by random() limit 3) chosen"
            )
            return
        server = await self._any_server()
        process = server.process
        if name == "stop":
            process.send_signal(signal.SIGTERM)
        elif name == "kill":
            self.fates.killed[process.pid] = math.inf
            process.send_signal(signal.SIGKILL)
            await process.wait()
            self.fates.killed[process.pid] = time.monotonic_ns()
        else:
            begun = time.monotonic_ns()
            process.send_signal(signal.SIGSTOP)
            try:
                await trio.sleep(LEASE + 2.0)  # the others' leases go on: they free its jobs
            finally:
                self.fates.frozen[process.pid].append((begun, time.monotonic_ns()))
                process.send_signal(signal.SIGCONT)

    # The end.

    async def _wait_for_all(self) -> None:
        """Wait until no job is unfinished."""
        with trio.fail_after(10 * PATIENCE):
            unfinished = "select from trio_jobs.jobs where completed_at is null limit 1"
            while await self.database.fetch(unfinished):  # noqa: ASYNC110 - nobody would tell
                await trio.sleep(0.1)

    async def _rows(self) -> dict[str, tuple[str, str, str | None, int]]:
        rows = await self.database.fetch(
            "select id::text, type, key, outcome::text, attempts from trio_jobs.jobs"
        )
        return {
            job_id: (type_, key, outcome, number) for job_id, type_, key, outcome, number in rows
        }


async def _comes_up(server: Command) -> bool:
    """Whether a server accepts connections before it ends, however slowly it starts."""
    for _ in range(10):
        try:
            await server.wait_running()
        except AssertionError:  # it has ended, or has not come up yet
            with trio.move_on_after(1.0):
                await server.process.wait()
                return False
        else:
            return True
    raise AssertionError("it neither serves nor ends")


async def besiege(folder: Path, database: CrashDatabase, *, jobs: int, seed: int) -> None:
    """Jobs under fire, and the accounts."""
    write_files(folder, config=CONFIG.format(url=database.url, lease=LEASE))
    siege = Siege(folder, database, jobs, random.Random(seed))  # noqa: S311 - not a secret

    account = await siege.run()

    print(siege.faults, siege.asked, siege.statuses, account)  # noqa: T201 - for a failure
    assert account.faults == []
    assert len(siege.told) == jobs
    assert siege.asked["wait"]
    # 200 only if the job has ended by the answer, as a request that is repeated may find.
    assert siege.asked["cancel 202"] + siege.asked["cancel 200"]
    assert set(siege.statuses) == {0}
    assert not any("Traceback" in log for log in siege.logs)
    # Nobody has stayed to sweep the leases that run out later: of the killed, and lost ones.
    killed = [f"%/{process}" for process in siege.fates.killed]
    lost = [int(n) for log in siege.logs for n in re.findall(r" lease_lost member=(\d+)", log)]
    alive = """
        select id, name from trio_jobs.members
        where lease_until >= clock_timestamp() and not name like any (%s) and not id = any (%s)
    """
    assert await database.fetch(alive, killed, lost) == []
    [(deadlocks,)] = await database.fetch("select sum(deadlocks) from pg_stat_database")
    assert deadlocks == 0


async def test_two_thousand_jobs_under_fire(tmp_path: Path, crash_database: CrashDatabase) -> None:
    await besiege(tmp_path / "servers", crash_database, jobs=2_000, seed=1)


@pytest.mark.soak
async def test_twenty_thousand_jobs_under_fire(
    tmp_path: Path, crash_database: CrashDatabase
) -> None:
    await besiege(
        tmp_path / "servers", crash_database, jobs=max(int(share_of(20_000)), 200), seed=2
    )
