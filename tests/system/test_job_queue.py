"""One application of FastAPI with a `JobQueue`, under the servers that people run it with."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import PATIENCE

SHOP = """
import asyncio, logging, os, pathlib
import trio
from fastapi import FastAPI
from trio_jobs import Handler, JobQueue

async def work(seconds: float) -> float:
    pathlib.Path("begun").touch()
    await trio.sleep(seconds)
    pathlib.Path("done").touch()
    return seconds

async def mail(seconds: float) -> float:
    await asyncio.sleep(seconds)
    pathlib.Path("sent").touch()
    return seconds

def negative(number: int) -> int:
    return -number

logging.basicConfig()
handlers = {"work": work, "mail": Handler.of(mail, run="asyncio"), "negative": negative}
queue = JobQueue(handlers, workers=3, grace_period=GRACE)
app = FastAPI(lifespan=queue.lifespan)
app.mount("/queue", queue)

@app.post("/negative/{number}")
async def submit(number: int):
    job = await queue.submit("negative", number)
    return {"result": await queue.result(job.id, type=int), "process": os.getpid()}
"""

READY = ("unning on ", 1)

UVICORN = ["uvicorn", "--uds", "s/http.sock", "--loop"]
HYPERCORN = ["hypercorn", "--bind", "unix:s/http.sock", "--worker-class"]


class Server:
    """A server that runs.

    Attributes:
        process: Its process.
        client: A client of its socket.
        log: What it has written so far.
    """

    def __init__(self, process: trio.Process, client: httpx.AsyncClient) -> None:
        self.process = process
        self.client = client
        self.log = ""

    async def read_log(self, *, until: str | None = None, times: int = 1) -> str:
        """The log up to the lines with this text, or to its end."""
        assert self.process.stderr is not None
        while until is None or self.log.count(until) < times:
            piece = await self.process.stderr.receive_some()
            if not piece:
                break
            self.log += bytes(piece).decode()
        return self.log


@asynccontextmanager
async def serving(
    folder: Path, *command: str, grace_period: float = 1000, ready: tuple[str, int] = READY
) -> AsyncIterator[Server]:
    """A server's own command, started in a folder with the application.

    It is ready when its log has this text so many times.
    """
    (folder / "s").mkdir()
    (folder / "shop.py").write_text(SHOP.replace("GRACE", str(grace_period)))
    transport = httpx.AsyncHTTPTransport(uds=str(folder / "s/http.sock"))
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", *command, "shop:app"], cwd=folder, stderr=subprocess.PIPE
        )
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost", timeout=PATIENCE
            ) as client:
                server = Server(process, client)
                await server.read_log(until=ready[0], times=ready[1])
                yield server
        finally:
            process.terminate()  # does nothing once it has ended
            with trio.CancelScope(shield=True), trio.move_on_after(5):
                await process.wait()
            process.kill()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ([*UVICORN, "asyncio"], -signal.SIGTERM),  # uvicorn raises the signal again at its end
        ([*UVICORN, "uvloop"], -signal.SIGTERM),
        ([*HYPERCORN, "asyncio"], 0),
        ([*HYPERCORN, "trio"], 0),
    ],
    ids=["uvicorn", "uvicorn-uvloop", "hypercorn", "hypercorn-trio"],
)
async def test_signal_drains_and_a_client_that_waits_gets_its_answer(
    tmp_path: Path, command: list[str], status: int
) -> None:
    waited: list[httpx.Response] = []
    async with serving(tmp_path, *command) as server, trio.open_nursery() as nursery:
        answer = await server.client.post("/negative/42")
        assert answer.json()["result"] == -42, await server.read_log()

        @nursery.start_soon
        async def wait() -> None:
            headers = {"Prefer": "wait=60"}
            job = {"type": "work", "payload": 1}
            waited.append(await server.client.post("/queue/jobs", json=job, headers=headers))

        while not (tmp_path / "begun").exists():  # noqa: ASYNC110 - of another process
            await trio.sleep(0.02)
        later = await server.client.post("/queue/jobs", json={"type": "mail", "payload": 1.5})
        assert later.status_code == 201
        server.process.send_signal(signal.SIGTERM)
        log = await server.read_log()
        assert await server.process.wait() == status, log

    assert [each.json()["outcome"] for each in waited] == ["succeeded"]
    assert (tmp_path / "sent").exists()
    assert "jobs_" not in log  # nothing is unfinished
    assert "Traceback" not in log


async def test_end_of_the_grace_period_ends_the_server_and_the_log_names_the_jobs(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, *UVICORN, "asyncio", grace_period=0.1) as server:
        await server.client.post("/queue/jobs", json={"type": "work", "payload": 1000})
        server.process.send_signal(signal.SIGTERM)
        log = await server.read_log()

    assert "jobs_interrupted" in log
    assert not (tmp_path / "done").exists()


async def test_each_of_several_workers_has_a_queue_of_its_own(tmp_path: Path) -> None:
    command = [*UVICORN, "asyncio", "--workers", "2"]
    processes = set()
    async with serving(tmp_path, *command, ready=("startup complete", 2)) as server:
        for number in range(200):
            headers = {"Connection": "close"}
            answer = await server.client.post(f"/negative/{number}", headers=headers)
            assert answer.json()["result"] == -number
            processes.add(answer.json()["process"])
            if len(processes) == 2:
                break
        server.process.send_signal(signal.SIGTERM)
        log = await server.read_log()

    assert log.count("Application shutdown complete") == 2
