"""The HTTP API behind other servers and in other frameworks, over real sockets."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from hypercorn.config import Config
from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware
from hypercorn.trio import serve
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from tests.command import PATIENCE
from tests.server.serving import get
from tests.system.test_events import Stream
from trio_jobs import Jobs, Role, TooManyWaitersError, open_jobs
from trio_jobs.asgi import make_app
from trio_jobs.testing.asgi_client import App, Client, Message

JOB = {"type": "double", "payload": 21}


async def double(number: int) -> int:
    return number * 2


async def never_returns(_payload: object) -> None:
    await trio.sleep_forever()


def in_starlette(jobs: Jobs, **options: Any) -> App:  # noqa: ANN401
    starlette = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")
    app: App = starlette.Starlette(routes=[routing.Mount("/queue", jobs.asgi(**options))])
    return app


def beside_quart(jobs: Jobs, **options: Any) -> App:  # noqa: ANN401
    app = QuartTrio("shop")

    @app.get("/")
    async def home() -> str:
        return "a shop"

    return TrioDispatcherMiddleware({"/queue": jobs.asgi(**options), "": app})


@asynccontextmanager
async def hypercorn_serves(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Hypercorn as it is, in this process."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    closing = trio.Event()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            run = partial(serve, app, config, shutdown_trigger=closing.wait)
            [url] = await nursery.start(run)
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
                yield client
            closing.set()


async def only_waiter_has_left(jobs: Jobs, job_id: str) -> None:
    """Wait until there is room for another waiter: nothing else tells."""
    while True:
        with trio.move_on_after(0.02) as waiting, suppress(TooManyWaitersError):
            await jobs.wait(job_id)
        if waiting.cancelled_caught:
            return
        await trio.sleep(0.02)


@pytest.mark.parametrize("host", [in_starlette, beside_quart])
async def test_api_is_mounted_in_an_application_under_hypercorn(host: object) -> None:
    handlers = {"double": double, "stuck": never_returns}
    assert callable(host)
    with trio.CancelScope() as scope:
        async with open_jobs(handlers, workers=2, max_waiters=1) as jobs:
            async with hypercorn_serves(host(jobs)) as client:
                submitted = await client.post("/queue/jobs", json=JOB)
                place = submitted.headers["location"]
                assert place == f"/queue/jobs/{submitted.json()['id']}"
                waited = await client.get(place, headers={"Prefer": "wait=10"})
                assert waited.json()["result"] == 42

                line = json.dumps(JOB).encode() + b"\n"
                streamed = await client.post("/queue/jobs/stream", content=line * 300)
                assert streamed.json() == {"accepted": 300}
                page = await client.get("/queue/jobs?limit=100")
                assert page.links["next"]["url"].startswith("/queue/jobs?limit=100&after=")

                origin = {"Origin": "http://evil.example"}
                assert (
                    await client.post("/queue/jobs", json=JOB, headers=origin)
                ).status_code == 403
                foreign = await client.get("/queue/jobs", headers={"Host": "evil.example"})
                assert foreign.status_code == 403

                stuck = jobs.submit("stuck")
                with trio.move_on_after(0.2):  # the client disconnects in its wait
                    await client.get(f"/queue/jobs/{stuck.id}", headers={"Prefer": "wait=60"})
                await only_waiter_has_left(jobs, stuck.id)
            scope.cancel()
    assert jobs.unfinished() == ([stuck.id], [])


def by_header(scope: Message) -> Role | None:
    """The role that the application gives a request."""
    return {b"ann": Role.CONTROL, b"": None}[dict(scope["headers"]).get(b"x-user", b"")]


@pytest.mark.parametrize("host", [in_starlette, beside_quart])
async def test_page_and_roles_of_the_application_under_hypercorn(host: object) -> None:
    assert callable(host)
    ann = {"X-User": "ann"}
    async with open_jobs({"double": double}) as jobs:
        async with hypercorn_serves(host(jobs, ui=True, role=by_header)) as client:
            assert (await client.get("/queue/ui")).status_code == 401
            page = await client.get("/queue/", headers=ann, follow_redirects=True)
            assert page.url.path == "/queue/ui"
            for name in re.findall(r'(?:src|href)="(ui/[\w.]+)"', page.text):
                assert (await client.get(f"/queue/{name}", headers=ann)).status_code == 200
            shown = await client.get("/queue/ui/session", headers=ann)
            assert shown.json()["role"] == "control"
            failed = await client.post("/queue/jobs", json=JOB, headers={"X-User": "mallory"})
            assert failed.status_code == 500  # the function of the application has raised
            assert (await client.post("/queue/jobs", json=JOB, headers=ann)).status_code == 201
        assert len(jobs.page()) == 1


@pytest.mark.parametrize("host", [in_starlette, beside_quart])
@pytest.mark.parametrize("stops", [False, True], ids=["client leaves", "server stops"])
async def test_events_of_a_mounted_api_under_hypercorn(host: object, *, stops: bool) -> None:
    assert callable(host)
    async with open_jobs({"double": double}, max_types=100) as jobs, AsyncExitStack() as stack:
        async with hypercorn_serves(host(jobs)) as client:
            port = client.base_url.port
            connection = await stack.enter_async_context(
                await trio.open_tcp_stream("127.0.0.1", port or 0)
            )
            await connection.send_all(get("/queue/events"))
            stream = Stream(connection)
            await stream.wait_for('"status":"ready"')
            job_id = (await client.post("/queue/jobs", json=JOB)).json()["id"]
            await stream.wait_for('"jobs"', job_id)
            await stream.wait_for('"succeeded":1')
            if not stops:
                await connection.aclose()
        if stops:  # Hypercorn cuts the answer; the pool goes on
            with pytest.raises(AssertionError, match="cut"):
                await stream.rest()
        assert (await jobs.wait(jobs.submit("double", 4).id)).outcome == "succeeded"


@pytest.mark.parametrize("host", [in_starlette, beside_quart])
@pytest.mark.parametrize("leaves", [False, True])
async def test_pipe_of_a_mounted_api_under_hypercorn(host: object, *, leaves: bool) -> None:
    assert callable(host)
    begun = trio.Event()

    async def never(_: object) -> None:
        begun.set()
        await trio.sleep_forever()

    async with (
        open_jobs({"double": double, "never": never}) as jobs,
        hypercorn_serves(host(jobs)) as client,
    ):
        connection = await trio.open_tcp_stream("127.0.0.1", client.base_url.port or 0)
        async with connection:
            head = get("/queue/jobs/pipe?type=double", "Transfer-Encoding: chunked", method="POST")
            await connection.send_all(head)
            stream = Stream(connection)
            for number in (1, 2):
                await connection.send_all(chunk(b'{"payload":%d}\n' % number))
                await stream.wait_for(f'"result":{2 * number}')
            if not leaves:
                await connection.send_all(b"0\r\n\r\n")
                await stream.wait_for('{"end":"input","lines":2,"succeeded":2}')
                return
            await connection.send_all(chunk(b'{"type":"never","payload":1}\n'))
            await begun.wait()
            [running] = (await client.get("/queue/jobs?status=processing")).json()
        job_id = running["id"]
        assert (await jobs.wait(job_id)).outcome == "cancelled"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


HANDLERS = """
import pathlib, trio

async def work(seconds: float) -> float:
    pathlib.Path("begun").touch()
    await trio.sleep(seconds)
    pathlib.Path("done").touch()
    return seconds
"""

CONFIG = """
[http]
token = "sesame"

[handlers]
work = "work:work"
"""


# A worker fails when a job arrives.
FAULT = """
import trio_jobs.pool.worker
from trio_jobs.asgi import make_app

async def fail(jobs, *arguments):
    await jobs.receive()
    raise RuntimeError("a bug")

trio_jobs.pool.worker.run_worker = fail
"""


@asynccontextmanager
async def hypercorns_command(
    folder: Path,
    module: str = "trio_jobs.asgi",
    *,
    arguments: Sequence[str] = (),
    **environment: str,
) -> AsyncIterator[tuple[trio.Process, httpx.AsyncClient]]:
    """Hypercorn's own command, started in the folder, and a client of its socket."""
    (folder / "s").mkdir()
    socket = str(folder / "s" / "http.sock")
    command = ["-m", "hypercorn", "-k", "trio", "-b", f"unix:{socket}", f"{module}:make_app()"]
    command += arguments
    transport = httpx.AsyncHTTPTransport(uds=socket)
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost", timeout=PATIENCE
            ) as client:
                yield process, client
        finally:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
                assert process.stderr is not None
                await process.stderr.aclose()


async def read_log(process: trio.Process, *, until: str | None = None) -> str:
    """The next lines of the log: up to those with this text, or to the end."""
    assert process.stderr is not None
    log = b""
    async for piece in process.stderr:
        log += piece
        if until is not None and until.encode() in log:
            break
    return log.decode()


async def test_tokens_have_their_roles_under_hypercorns_command(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(HANDLERS)
    http = '[http]\ntoken_file = "tokens"\npayloads = "control"'
    config = CONFIG.replace('[http]\ntoken = "sesame"', http)
    (tmp_path / "jobs.toml").write_text(config)
    (tmp_path / "tokens").write_text("submit one shop\nread two\nthree\n")
    async with hypercorns_command(tmp_path, TRIO_JOBS_CONFIG="jobs.toml") as (process, client):
        await read_log(process, until="Running on")
        asked = [{"Authorization": f"Bearer {token}"} for token in ("one", "two", "three")]
        job = {"type": "work", "payload": 0}
        made = [await client.post("/jobs", json=job, headers=headers) for headers in asked]
        place = made[0].headers["location"]
        seen = [(await client.get(place, headers=headers)).json() for headers in asked]
        listed = [await client.get("/jobs", headers=headers) for headers in asked]
        forgotten = [await client.delete(f"{place}/", headers=headers) for headers in asked]
        process.terminate()
        await read_log(process)
        await process.wait()

    assert [answer.status_code for answer in made] == [201, 403, 201]
    assert [answer.status_code for answer in listed] == [403, 200, 200]
    assert [answer.status_code for answer in forgotten] == [403, 403, 404]
    assert [each.get("payload") for each in seen] == [0, None, 0]
    assert [each["submitted_by"] for each in seen] == ["shop"] * 3


async def test_hypercorns_command_serves_the_configured_handlers_and_drains(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(HANDLERS)
    (tmp_path / "jobs.toml").write_text(CONFIG)
    variables = {"TRIO_JOBS_CONFIG": "jobs.toml", "TRIO_JOBS_HTTP_MAX_WAIT_SECONDS": "7"}
    async with hypercorns_command(tmp_path, **variables) as (process, client):
        await read_log(process, until="Running on")
        job = {"type": "work", "payload": 0}
        assert (await client.get("/jobs")).status_code == 401
        assert (await client.get("/health")).json() == {"status": "ok"}
        client.headers["Authorization"] = "Bearer sesame"
        waited = await client.post("/jobs", json=job, headers={"Prefer": "wait=99"})
        assert waited.json()["outcome"] == "succeeded"
        assert waited.headers["preference-applied"] == "wait=7"
        origin = {"Origin": "http://evil.example"}
        assert (await client.delete("/jobs/x", headers=origin)).status_code == 403
        (tmp_path / "done").unlink()
        await client.post("/jobs", json={"type": "work", "payload": 1})
        job_id = (await client.get("/jobs")).json()[-1]["id"]
        assert (await client.get(f"/jobs/{job_id}")).json()["status"] == "processing"

        process.send_signal(signal.SIGTERM)

        log = await read_log(process)
        assert await process.wait() == 0, log
    assert (tmp_path / "done").exists()


ON_ASYNCIO = """
import asyncio, contextlib, pathlib

@contextlib.asynccontextmanager
async def lifespan():
    yield "open"
    await asyncio.sleep(0)
    pathlib.Path("closed").touch()

async def work(payload, context):
    await asyncio.sleep(0)
    return [payload, context.state]
"""


@pytest.mark.parametrize("opens", [True, False])
async def test_hypercorns_command_runs_handlers_on_asyncio_and_their_lifespan(
    tmp_path: Path, opens: bool
) -> None:
    text = ON_ASYNCIO if opens else ON_ASYNCIO.replace('yield "open"', "raise OSError; yield")
    (tmp_path / "work.py").write_text(text)
    config = '[pool]\nasync_handlers = "asyncio"\n[lifespan]\nasync = "work:lifespan"\n'
    (tmp_path / "config.toml").write_text(f'{config}[handlers]\nwork = "work:work"\n')
    async with hypercorns_command(tmp_path) as (process, client):
        if opens:
            await read_log(process, until="Running on")
            job = {"type": "work", "payload": 1}
            waited = await client.post("/jobs", json=job, headers={"Prefer": "wait=9"})
            assert waited.json()["result"] == [1, "open"]
            process.send_signal(signal.SIGTERM)

        log = await read_log(process)
        await process.wait()
        assert (tmp_path / "closed").exists() is opens
        assert opens or "lifespan.async = 'work:lifespan': OSError" in log


async def test_failed_pool_ends_hypercorn(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(FAULT)
    async with hypercorns_command(tmp_path, "faulty") as (process, client):
        await read_log(process, until="Running on")
        with suppress(httpx.RequestError):  # Hypercorn may end before it has answered
            await client.post("/jobs", json=JOB)

        log = await read_log(process)

        assert "CRITICAL trio_jobs.asgi pool_failed\n" in log
        assert "RuntimeError: a bug\n" in log
        assert "Lifespan failure in shutdown. 'the pool has failed'" in log
        assert await process.wait() == 0  # Hypercorn forgets the status of its worker process


async def test_second_worker_on_the_file_is_refused_in_one_line_and_hypercorn_ends(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.toml").write_text('[store]\npath = "jobs.db"\n')
    async with hypercorns_command(tmp_path, arguments=["--workers", "2"]) as (process, _):
        log = await read_log(process)
        await process.wait()

    [line] = [line for line in log.splitlines() if "CRITICAL" in line]
    file = tmp_path / "jobs.db"
    assert f"store_unusable reason=\"store file '{file}' is in use by another server" in line
    # Hypercorn's own traceback has none of ours.
    assert "StoreFileError" not in log
    assert "pool_failed" not in log


async def test_health_fails_while_a_failed_pool_ends_and_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler unwinds slowly; then the server ignores the failure."""
    failing, unwound = trio.Event(), trio.Event()
    received = iter(["lifespan.startup"])
    sent = []

    async def run_worker(*_: object) -> None:
        if trio.lowlevel.current_task().name == "worker-0":
            await failing.wait()
            raise RuntimeError("a bug")
        with trio.move_on_after(PATIENCE / 2, shield=True):
            await unwound.wait()

    async def receive() -> object:
        for kind in received:
            return {"type": kind}
        return await trio.sleep_forever()

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trio_jobs.pool.worker.run_worker", run_worker)
    app = make_app()
    client = Client(app)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app, {"type": "lifespan"}, receive, send)
            await wait_all_tasks_blocked()
            assert (await client.get("/health")).status == 200

            failing.set()
            await wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="the pool is not running"):
                await client.get("/health")
            unwound.set()

        with pytest.raises(RuntimeError, match="the pool is not running"):
            await client.get("/health")
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.failed"]


async def test_pool_that_does_not_start_fails_the_startup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent = []

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    def open_jobs(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trio_jobs.configured_jobs.open_jobs", open_jobs)

    await make_app()({"type": "lifespan"}, trio.lowlevel.checkpoint, send)

    assert sent == ["lifespan.startup.failed"]
    assert "pool_failed" in caplog.messages


@pytest.mark.parametrize(
    ("variable", "text", "complaint"),
    [
        ("CONFIG", "none.toml", "none.toml"),
        (
            "POOL_WORKERS",
            "0",
            "TRIO_JOBS_POOL_WORKERS must be an integer from 1 to 100000, got '0'",
        ),
        ("HTTP_TOKEN", "\u00e9", "http: "),
    ],
)
async def test_mistake_in_the_configuration_ends_hypercorn(
    tmp_path: Path, variable: str, text: str, complaint: str
) -> None:
    variables = {f"TRIO_JOBS_{variable}": text}
    async with hypercorns_command(tmp_path, **variables) as (process, _):
        log = await read_log(process)

        assert f"ConfigError: {complaint}" in log.splitlines()[-1]
        assert await process.wait() == 0  # Hypercorn forgets the status of its worker process


async def test_request_to_a_server_without_a_lifespan_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(RuntimeError, match="the server does not support ASGI's lifespan"):
        await make_app()({"type": "http"}, None, None)
