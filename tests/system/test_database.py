"""The command over a database: several servers, refusals in one line, and rolling restarts."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import psycopg
import pytest
import trio

from tests.command import (
    PATIENCE,
    Command,
    Finished,
    Gate,
    run_command,
    running_command,
    started_command,
)
from tests.postgres.databases import Database
from tests.postgres.fixtures import CrashDatabase, make_schema
from trio_jobs import DurableJobs, StoreDatabaseError, open_jobs
from trio_jobs.stores.postgres.pump import Pump
from trio_jobs.stores.postgres.trio_connection import connect

CONFIG = """
[pool]
workers = 2
buffer_size = 4
[store]
url = "{url}"
timeout = 30
[handlers]
quick = "work:quick"
wait = "work:wait_for_gate"
add_one = "work:add_one"
"""

HANDLERS = """
import os
import select


async def quick(payload: object) -> object:
    return payload


async def add_one(payload: int) -> int:
    return payload + 1


def wait_for_gate(payload: object) -> int:
    select.select([os.open("gate", os.O_RDONLY)], [], [])
    return os.getpid()
"""


@asynccontextmanager
async def running(
    folder: Path, database: Database, number: int = 1, **settings: str
) -> AsyncIterator[list[Command]]:
    """Servers over one database, which accept connections."""
    environment = {
        "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0",
        **{f"TRIO_JOBS_{name.upper()}": value for name, value in settings.items()},
    }
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                running_command(
                    folder,
                    config=CONFIG.format(url=database.url),
                    handlers=HANDLERS,
                    environment=environment,
                )
            )
            for _ in range(number)
        ]


async def wait_for(server: Command, job_id: str) -> object:
    """The job's outcome at this server, once it has ended."""
    headers = {"Prefer": f"wait={PATIENCE:.0f}"}
    return (await server.client.get(f"/jobs/{job_id}", headers=headers)).json()["outcome"]


async def stop(server: Command) -> None:
    """Stop a server, which has nothing left to do."""
    server.send(signal.SIGTERM)
    assert await server.wait_exit() == 0, server.log


async def refused(folder: Path, url: str, *arguments: str, **settings: str) -> Finished:
    """A server that cannot start; it says so in one line."""
    finished = await run_command(
        folder,
        *arguments,
        config=CONFIG.format(url=url),
        handlers=HANDLERS,
        environment={
            "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0",
            **{f"TRIO_JOBS_{name.upper()}": value for name, value in settings.items()},
        },
    )
    assert len([line for line in finished.lines if line.startswith("trio-jobs: ")]) == 1, finished
    assert not any("Running on" in line or "Traceback" in line for line in finished.lines)
    return finished


async def test_job_of_one_server_is_looked_up_waited_for_and_listed_at_another(
    tmp_path: Path, database: Database
) -> None:
    async with running(tmp_path, database, 2) as (one, other):
        job_id = await one.submit("quick", {"n": 1})

        assert await wait_for(other, job_id) == "succeeded"
        assert (await other.job(job_id))["result"] == {"n": 1}
        assert (await other.job(job_id)) == (await one.job(job_id))
        assert [job["id"] for job in (await other.client.get("/jobs")).json()] == [job_id]
        for server in (one, other):
            await stop(server)


async def test_job_is_cancelled_and_run_again_at_another_server(
    tmp_path: Path, database: Database
) -> None:
    with Gate(tmp_path) as gate:
        async with running(tmp_path, database, 2) as (one, other):
            running_jobs = [await one.submit("wait") for _ in range(4)]
            pending = await one.submit("wait")

            assert (await other.client.post(f"/jobs/{pending}/cancel")).status_code == 202
            gate.open()
            assert await wait_for(one, pending) == "cancelled"
            for job_id in running_jobs:
                assert await wait_for(one, job_id) == "succeeded"
            again = (await other.client.post(f"/jobs/{pending}/rerun")).json()
            assert await wait_for(one, again["id"]) == "succeeded"
            assert (await one.job(pending))["rerun_as"] == again["id"]


async def test_key_makes_one_job_whichever_server_gets_it(
    tmp_path: Path, database: Database
) -> None:
    key = {"Idempotency-Key": "order-4711"}
    async with running(tmp_path, database, 2) as (one, other):
        first = await one.client.post("/jobs", json={"type": "quick"}, headers=key)
        again = await other.client.post("/jobs", json={"type": "quick"}, headers=key)
        different = await other.client.post("/jobs", json={"type": "wait"}, headers=key)

        assert (first.status_code, again.status_code, different.status_code) == (201, 201, 422)
        assert again.json()["id"] == first.json()["id"]
        assert again.headers["idempotent-replayed"] == "true"


async def test_stop_finishes_what_runs_and_leaves_the_rest_to_the_others(
    tmp_path: Path, database: Database
) -> None:
    with Gate(tmp_path) as gate:
        async with running(tmp_path, database, 1) as (one,):
            jobs = [await one.submit("wait") for _ in range(8)]
            one.send(signal.SIGTERM)
            await one.wait_for_line("draining")
            async with running(tmp_path, database, 1) as (other,):
                gate.open()
                assert await one.wait_exit() == 0
                for job_id in jobs:
                    assert await wait_for(other, job_id) == "succeeded"
                ran = [(await other.job(job_id)) for job_id in jobs]
                assert {job["attempts"] for job in ran} == {1}
                assert [job["result"] for job in ran].count(one.process.pid) == 2
                assert [job["result"] for job in ran].count(other.process.pid) == 6


async def test_rolling_restart_loses_nothing_and_runs_nothing_twice(
    tmp_path: Path, database: Database
) -> None:
    async with running(tmp_path, database, 1) as (old,):
        async with running(tmp_path, database, 1) as (new,):
            jobs = [await old.submit("quick", n) for n in range(20)]
            old.send(signal.SIGTERM)
            jobs += [await new.submit("quick", n) for n in range(20)]
            assert await old.wait_exit() == 0
            for job_id in jobs:
                assert await wait_for(new, job_id) == "succeeded"
            assert {(await new.job(job_id))["attempts"] for job_id in jobs} == {1}
            await stop(new)
        async with running(tmp_path, database, 1) as (later,):
            assert (await later.job(jobs[0]))["outcome"] == "succeeded"


async def test_readiness_names_the_servers_and_counts_the_open_jobs(
    tmp_path: Path, database: Database
) -> None:
    async with running(tmp_path, database, 2) as (one, other):
        await one.run("quick")
        ready = (await other.client.get("/health/ready")).json()

        assert ready["database"] == "ok"
        assert ready["store_failing_seconds"] is None
        assert len(ready["members"]) in {1, 2}  # a server hears of the others at its heartbeats
        assert ready["open"] >= 0


async def test_pause_is_of_one_server_and_lasts_until_its_restart(
    tmp_path: Path, database: Database
) -> None:
    async with running(tmp_path, database, 2) as (one, other):
        paused = (await one.client.post("/pool/pause", json={"type": ["quick"]})).json()

        assert paused == {"paused": ["quick"], "until": "restart"}
        for _ in range(5):
            job_id = await one.submit("quick")
            assert await wait_for(one, job_id) == "succeeded"  # at the other one
        assert (await other.client.get("/health/ready")).json()["paused"] == []


async def test_sign_in_at_one_server_is_one_at_each(tmp_path: Path, database: Database) -> None:
    (tmp_path / "tokens").write_text("control s3cret ann\n")
    token_file = str(tmp_path / "tokens")
    async with running(tmp_path, database, 2, http_token_file=token_file) as (one, other):
        own_page = {"Sec-Fetch-Site": "same-origin"}
        signed = await one.client.post("/ui/session", json={"token": "s3cret"}, headers=own_page)
        cookie = {"Cookie": signed.headers["set-cookie"].partition(";")[0]}

        assert (await other.client.get("/pool", headers=own_page)).status_code == 401
        assert (await other.client.get("/pool", headers=own_page | cookie)).status_code == 200


async def test_database_without_tables_is_refused_until_they_are_made(
    tmp_path: Path, empty_database: Database
) -> None:
    finished = await refused(tmp_path, empty_database.url)
    assert finished.status == 1
    assert any("trio-jobs migrate" in line for line in finished.lines)

    config = CONFIG.format(url=empty_database.url)
    made = await run_command(tmp_path, "migrate", config=config, handlers=HANDLERS)
    again = await run_command(tmp_path, "migrate", config=config, handlers=HANDLERS)

    assert (made.status, again.status) == (0, 0), made
    assert made.output == again.output == "the tables have version 1\n"
    async with running(tmp_path, empty_database) as (server,):
        assert (await server.run("quick", 1))["result"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("drop schema trio_jobs cascade", 'schema "trio_jobs" does not exist'),
        ("drop table trio_jobs.jobs cascade", 'relation "trio_jobs.jobs" does not exist'),
        ("drop function trio_jobs.beat", "function trio_jobs.beat("),
        ("alter table trio_jobs.members rename lease_until to ended", "column m.lease_until"),
    ],
)
async def test_tables_that_are_dropped_under_a_server_end_it_with_one_line(
    tmp_path: Path, empty_database: Database, change: str, reason: str
) -> None:
    await make_schema(empty_database.url)
    async with running(tmp_path, empty_database, store_lease="1") as (server,):
        await empty_database.fetch(change)

        assert await server.wait_exit() == 1

        (line,) = server.lines_with("CRITICAL")
        assert "store_unusable" in line
        assert "the database cannot be used any more" in line
        assert reason.replace('"', '\\"') in line
        assert "Traceback" not in server.log


async def test_tables_of_another_version_are_refused(tmp_path: Path, database: Database) -> None:
    await database.fetch("update trio_jobs.schema_version set version = 99, compatible_from = 98")

    for arguments in ((), ("migrate",)):
        finished = await refused(tmp_path, database.url, *arguments)

        assert finished.status == 1
        assert any("99" in line for line in finished.lines)


async def test_newer_tables_that_are_marked_as_compatible_are_used(
    tmp_path: Path, database: Database
) -> None:
    await database.fetch("update trio_jobs.schema_version set version = 99, compatible_from = 1")

    config = CONFIG.format(url=database.url)
    made = await run_command(tmp_path, "migrate", config=config, handlers=HANDLERS)

    assert (made.status, made.output) == (0, "the tables have version 99\n")
    async with running(tmp_path, database) as (server,):
        assert (await server.run("quick", 1))["result"] == 1


@pytest.mark.parametrize("arguments", [(), ("migrate",)])
async def test_database_that_is_away_ends_the_start(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    url = f"postgresql://shop:s3cret@/shop?host={tmp_path}"

    finished = await refused(tmp_path, url, *arguments)

    assert finished.status == 1
    assert "s3cret" not in "".join(finished.lines)


async def test_url_that_is_none_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    for arguments in ((), ("--check",), ("migrate",)):
        finished = await refused(tmp_path, "postgresql://localhost/?colour=s3cret", *arguments)

        assert finished.status == 2
        assert "s3cret" not in "".join(finished.lines)


async def test_migrate_without_a_database_is_a_mistake(tmp_path: Path) -> None:
    finished = await run_command(tmp_path, "migrate", config="")

    assert finished.status == 2
    assert any("needs store.url" in line for line in finished.lines)


async def test_check_shows_the_settings_without_the_url(tmp_path: Path) -> None:
    config = CONFIG.format(url="postgresql://shop:s3cret@localhost/shop")

    checked = await run_command(tmp_path, "--check", config=config, handlers=HANDLERS)

    assert checked.status == 0
    assert "s3cret" not in checked.output
    assert "lease = 15.0" in checked.output


async def test_server_without_its_database_answers_and_goes_on_when_it_is_back(
    tmp_path: Path, crash_database: CrashDatabase
) -> None:
    async with running(tmp_path, crash_database, store_timeout="0.5") as (server,):
        first = await server.run("quick", 1)
        path = f"/jobs/{first['id']}"
        await crash_database.stop()
        answer = await server.client.post("/jobs", json={"type": "quick"})
        assert answer.status_code in {503, 504}
        assert (await server.client.get("/health")).status_code == 200
        # Sent while the pump hangs, so that each knows what it has left behind.
        for method, asked, left in (
            ("GET", path, ""),
            ("HEAD", path, ""),
            ("GET", "/jobs", ""),
            ("GET", "/jobs?limit=1", ""),
            ("GET", "/jobs/counts", ""),
            ("POST", "/jobs", "; nothing was kept"),
            ("POST", f"{path}/rerun", "; nothing was kept"),
            ("POST", "/jobs/rerun", "; nothing was kept"),
            ("POST", f"{path}/cancel", "; nothing has changed"),
            ("POST", f"{path}/run-now", "; nothing has changed"),
            ("POST", "/jobs/cancel", "; nothing has changed"),
            ("DELETE", path, "; nothing has changed"),
        ):
            body = {"type": "quick"} if asked == "/jobs" else {"type": ["quick"]}
            refused = await server.client.request(
                method, asked, json=None if asked.startswith(path) or method == "GET" else body
            )
            assert refused.status_code == 503, asked
            if method != "HEAD":
                assert refused.json()["detail"] == f"the database does not answer{left}", asked
        await crash_database.start()
        await server.wait_for_line("database_back")

        assert (await server.job(first["id"]))["result"] == 1
        assert (await server.run("quick", 2))["result"] == 2
        await stop(server)


async def test_stop_without_the_database_ends_in_bounded_time(
    tmp_path: Path, crash_database: CrashDatabase
) -> None:
    async with running(tmp_path, crash_database) as (server,):
        await server.run("quick", 1)
        await crash_database.stop("immediate")

        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0


async def test_program_and_server_share_the_jobs(tmp_path: Path, database: Database) -> None:
    async def quick(payload: object) -> object:
        return payload

    async with running(tmp_path, database) as (server,):
        async with open_jobs({"quick": quick}, url=database.url) as jobs:
            assert isinstance(jobs, DurableJobs)
            job = await jobs.submit("quick", 1)
            assert await jobs.result(job.id) == 1
            assert (await server.job(job.id))["result"] == 1
            gate_job = await server.submit("quick", 2)
            assert (await jobs.wait(gate_job)).outcome == "succeeded"
            assert jobs.unfinished() == ([], [])
        # A job that only the server has a handler for.
        async with open_jobs({"other": quick}, url=database.url) as jobs:
            done = await server.run("quick", 3)
            assert await jobs.result(done["id"]) == 3


async def test_behind_a_pooler_it_needs_a_way_around_it_for_notifications(
    tmp_path: Path, database: Database, pooler_url: str
) -> None:
    finished = await refused(tmp_path, pooler_url)
    assert finished.status == 1
    assert any(
        "store.listen_url must lead to the database itself" in line for line in finished.lines
    )

    pooled = Database(pooler_url, database.name, database.cluster)
    async with running(tmp_path, pooled, 2, store_listen_url=database.url) as (one, other):
        jobs = [await one.submit("quick", n) for n in range(20)]
        for job_id in jobs:
            assert await wait_for(other, job_id) == "succeeded"
        await stop(one)


async def test_stop_ends_the_membership(tmp_path: Path, database: Database) -> None:
    async with running(tmp_path, database) as (server,):
        assert await database.fetch("select count(*) from trio_jobs.members") == [(1,)]
        await stop(server)

        assert await database.fetch("select count(*) from trio_jobs.members") == [(0,)]


async def test_job_of_a_users_transaction_runs_when_that_commits(
    tmp_path: Path, database: Database
) -> None:
    submit = "select trio_jobs.submit('quick', '{\"n\": 1}', key => %s)::text"
    async with running(tmp_path, database) as (server,):
        async with await connect(database.url, name="user", autocommit=False) as user:
            ((job_id,),) = await (await user.execute(submit, ["order-4711"])).fetchall()
            assert (await server.client.get(f"/jobs/{job_id}")).status_code == 404
            await user.commit()

        assert await wait_for(server, job_id) == "succeeded"
        assert (await server.job(job_id))["payload"] == {"n": 1}


SUBMIT = "select trio_jobs.submit('add_one', %s::json)::text"
# What `submit` refuses, and no rule of the table does.
INSERT = """
    insert into trio_jobs.jobs (id, type, payload)
    values (trio_jobs.uuid7(), 'add_one', %s::json) returning id::text
"""


@pytest.mark.parametrize(("sql", "payload"), [(SUBMIT, '"1"'), (INSERT, '"\\ud800"')])
async def test_payload_of_a_transaction_that_does_not_fit_fails_its_job_alone(
    tmp_path: Path, database: Database, sql: str, payload: str
) -> None:
    async with running(tmp_path, database) as (server,):
        [[unfit]] = await database.fetch(sql, payload)
        [[fit]] = await database.fetch(SUBMIT, "1")

        assert await wait_for(server, unfit) == "failed"
        assert await wait_for(server, fit) == "succeeded"
        assert '"type":"PayloadError"' in (await server.client.get(f"/jobs/{unfit}")).text
        await stop(server)


async def test_servers_that_know_different_types_share_a_database(
    tmp_path: Path, database: Database
) -> None:
    async def other(payload: object) -> object:
        return {"other": payload}

    async with (
        running(tmp_path, database) as (server,),
        open_jobs({"other": other}, url=database.url) as jobs,
    ):
        refusal = await server.client.post("/jobs", json={"type": "other"})
        assert refusal.status_code == 400
        job = await jobs.submit("other", 1)
        assert await wait_for(server, job.id) == "succeeded"
        assert (await server.job(job.id))["result"] == {"other": 1}


async def test_program_that_is_cancelled_says_goodbye(database: Database) -> None:
    async def work(payload: object) -> object:
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        async with open_jobs({"work": work}, url=database.url) as jobs:
            job = await jobs.submit("work")
            scope.cancel()
            await trio.sleep_forever()

    assert await database.fetch("select count(*) from trio_jobs.members") == [(0,)]
    assert await database.fetch("select id::text, owner, attempts from trio_jobs.jobs") == [
        (job.id, None, 0)
    ]


async def test_stop_ends_a_start_that_waits_for_the_database(tmp_path: Path) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    config = CONFIG.format(url=f"postgresql://127.0.0.1:{port}/shop")
    async with (
        listener,
        started_command(tmp_path, config=config, handlers=HANDLERS) as server,
        await listener.accept(),  # and nobody answers
    ):
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 1
        assert server.lines_with("start_stopped", "the database has not answered")


async def test_unusual_jobs_by_sql_are_shown_listed_and_run(
    tmp_path: Path, database: Database
) -> None:
    payloads = [
        "[" * 64 + "]" * 64,
        r'{"a": "\u0000\ud83d\ude00", "a": 1e308, "b": "\\ud800"}',
        "1" + "0" * 400,
        ' [\n"two",\r\n"lines"] ',
        '"' + "p" * 2_000_000 + '"',  # more than http.max_body_bytes
    ]
    sql = "select trio_jobs.submit('quick', %s::json)::text"
    job_ids = [row[0] for each in payloads for row in await database.fetch(sql, each)]
    long = "t" * 100_000 + "\n\x1b"
    [(unknown,)] = await database.fetch("select trio_jobs.submit(%s)::text", long)

    async with running(tmp_path, database, store_max_result_bytes="3000000") as [server]:
        assert [await wait_for(server, job_id) for job_id in job_ids] == ["succeeded"] * 5
        for job_id, payload in zip(job_ids, payloads, strict=True):
            text = (await server.client.get(f"/jobs/{job_id}")).text
            assert f'"payload":{payload},' in text
            assert json.loads(text)["result"] == json.loads(payload)
        assert (await server.job(unknown))["type"] == long
        for query in ("", "?limit=10", "?order=newest"):
            listed = (await server.client.get(f"/jobs{query}")).json()
            assert {each["id"] for each in listed} == {*job_ids, unknown}
        counts = (await server.client.get("/jobs/counts")).json()
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    assert counts["total"] == 6


async def test_a_batch_may_be_as_large_as_jobs_may_be_open(
    tmp_path: Path, database: Database
) -> None:
    async with running(tmp_path, database, store_max_open="60") as [server]:
        items = [{"type": "quick"}] * 30 + [{"type": "quick", "delay": 0.01}] * 30

        too_many = await server.client.post("/jobs/batch", json=[*items, *items[-1:]])
        accepted = await server.client.post("/jobs/batch", json=items)

        assert too_many.status_code == 400
        assert (
            too_many.json()["detail"]
            == "a batch must have at most 60 jobs, as many as may be open, got 61"
        )
        assert accepted.status_code == 201  # the buffer holds four
        ends = [await wait_for(server, job["id"]) for job in accepted.json()]
        assert ends == ["succeeded"] * 60

        batch = [{"type": "add_one", "payload": 1, "delay": 1000}] * 40
        failed = (await server.client.post("/jobs/batch", json=batch)).json()
        for job in failed:
            await server.client.post(f"/jobs/{job['id']}/cancel")
        assert {await wait_for(server, job["id"]) for job in failed} == {"cancelled"}
        await server.client.post("/jobs/batch", json=[{"type": "quick", "delay": 1000}] * 50)
        refused = await server.client.post("/jobs/rerun", json={"outcome": ["cancelled"]})
        assert refused.status_code == 429
        assert "40 jobs to re-run, and 10 more may be open" in refused.json()["detail"]
        await stop(server)


async def nothing(_payload: object) -> None:
    """Return at once."""


async def test_a_start_that_fails_after_it_has_joined_says_goodbye(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_pump: Pump, **_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise psycopg.OperationalError("too many connections")

    monkeypatch.setattr(Pump, "run", fail)

    with pytest.raises(StoreDatabaseError, match="too many connections"):
        async with open_jobs({"t": nothing}, url=database.url):
            pass
    assert await database.fetch("select name from trio_jobs.members") == []
