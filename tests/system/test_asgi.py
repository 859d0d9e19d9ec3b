"""The HTTP API behind other servers and in other frameworks, over real sockets."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from hypercorn.config import Config
from hypercorn.middleware.dispatcher import TrioDispatcherMiddleware
from hypercorn.trio import serve
from quart_trio import QuartTrio

from tests.command import PATIENCE
from tests.support import ConfigError
from trio_jobs import Jobs, TooManyWaitersError, open_jobs
from trio_jobs.asgi import make_app
from trio_jobs.testing.asgi_client import App

JOB = {"type": "double", "payload": 21}


async def double(number: int) -> int:
    return number * 2


async def never_returns(_payload: object) -> None:
    await trio.sleep_forever()


def in_starlette(jobs: Jobs) -> App:
    starlette = pytest.importorskip("starlette.applications")
    routing = pytest.importorskip("starlette.routing")
    app: App = starlette.Starlette(routes=[routing.Mount("/queue", jobs.asgi())])
    return app


def beside_quart(jobs: Jobs) -> App:
    app = QuartTrio("shop")

    @app.get("/")
    async def home() -> str:
        return "a shop"

    return TrioDispatcherMiddleware({"/queue": jobs.asgi(), "": app})


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


async def test_hypercorns_command_serves_the_configured_handlers_and_drains(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(HANDLERS)
    (tmp_path / "jobs.toml").write_text(CONFIG)
    (tmp_path / "s").mkdir()
    socket = tmp_path / "s" / "http.sock"
    command = ["-m", "hypercorn", "-k", "trio", "-b", f"unix:{socket}", "trio_jobs.asgi:make_app()"]
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            [sys.executable, *command],
            cwd=tmp_path,
            env={"TRIO_JOBS_CONFIG": "jobs.toml", "TRIO_JOBS_HTTP_MAX_WAIT_SECONDS": "7"},
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        log = b""
        while b"Running on" not in log:
            log += await process.stderr.receive_some()
        async with httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)), base_url="http://localhost"
        ) as client:
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

        async for piece in process.stderr:
            log += piece
        assert await process.wait() == 0, log.decode()
    assert (tmp_path / "done").exists()


def test_mistake_in_the_configuration_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIO_JOBS_CONFIG", "none.toml")

    with pytest.raises(ConfigError, match=r"none\.toml"):
        make_app()


async def test_request_to_a_server_without_a_lifespan_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(RuntimeError, match="the server must support ASGI's lifespan"):
        await make_app()({"type": "http"}, None, None)
