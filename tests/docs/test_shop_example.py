"""The example from FastAPI, unchanged under the command and in FastAPI, with everything real.

Real are the SMTP server, the HTTP API, the database and the images.
"""

import contextlib
import importlib
import os
import socket
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import trio
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from PIL import Image

from tests.command import PATIENCE, running_command

SHOP = Path(__file__).parents[2] / "examples/shop"

EMAIL = {"to": "ann@example.com", "subject": "Welcome"}


class World(NamedTuple):
    """What the handlers of the shop work with.

    Attributes:
        environment: Tells the shop where everything is.
        folder: Has the pictures, and will have the database and the emails.
    """

    environment: dict[str, str]
    folder: Path

    def sent(self) -> list[str]:
        """The emails that the SMTP server has received."""
        return [path.read_text() for path in (self.folder / "mail/new").iterdir()]

    def saved(self) -> list[tuple[str, float]]:
        """The rates in the database."""
        with contextlib.closing(sqlite3.connect(self.folder / "shop.db")) as connection:
            return connection.execute("SELECT currency, value FROM rates").fetchall()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.syspath_prepend(SHOP)
    rates = importlib.import_module("rates")
    monkeypatch.setattr(rates, "SECONDS", 0.05)
    monkeypatch.setattr(rates.Rates, "log_message", lambda *_: None)
    smtp = Controller(Mailbox(tmp_path / "mail"), hostname="127.0.0.1", port=port)
    smtp.start()
    http = ThreadingHTTPServer(("127.0.0.1", 0), rates.Rates)
    threading.Thread(target=http.serve_forever).start()
    Image.linear_gradient("L").resize((800, 600)).save(tmp_path / "photo.png")
    environment = {
        "SHOP_SMTP_HOST": "127.0.0.1",
        "SHOP_SMTP_PORT": str(port),
        "SHOP_RATES": f"http://127.0.0.1:{http.server_port}",
        "SHOP_DATABASE": str(tmp_path / "shop.db"),
    }
    yield World(environment, tmp_path)
    smtp.stop()
    http.shutdown()
    http.server_close()


@asynccontextmanager
async def under_uvicorn(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """The FastAPI application, started as its readers do."""
    path = world.folder / "http.sock"
    command = ["-m", "uvicorn", "app:app", "--app-dir", str(SHOP), "--uds", str(path)]
    with trio.fail_after(PATIENCE):
        process = await trio.lowlevel.open_process(
            [sys.executable, *command],
            cwd=world.folder,
            env={**os.environ, **world.environment},
        )
        try:
            while not path.exists():  # noqa: ASYNC110 - another process makes it
                await trio.sleep(0.01)
            transport = httpx.AsyncHTTPTransport(uds=str(path), retries=3)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
                yield client
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()


@asynccontextmanager
async def under_the_command(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """The command with the example's configuration."""
    environment = {**world.environment, "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}
    config = str(SHOP / "config.toml")
    async with running_command(
        world.folder, "--config", config, environment=environment
    ) as command:
        yield command.client


async def finished(client: httpx.AsyncClient, url: str, type_: str, payload: object) -> Any:  # noqa: ANN401
    """A job, submitted and completed."""
    answer = await client.post(
        f"{url}/jobs", json={"type": type_, "payload": payload}, headers={"Prefer": "wait=30"}
    )
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


async def check_all_three(client: httpx.AsyncClient, url: str, world: World) -> None:
    email = await finished(client, url, "email", EMAIL)
    rate = await finished(client, url, "rate", {"currency": "EUR", "factor": 2})
    unknown = await finished(client, url, "rate", {"currency": "XXX"})
    source, target = world.folder / "photo.png", world.folder / "small.jpg"
    images = {"source": str(source), "target": str(target), "size": 64}
    thumbnail = await finished(client, url, "thumbnail", images)
    refused = await client.post(
        f"{url}/jobs", json={"type": "rate", "payload": {"currency": "euro", "factor": 0}}
    )

    assert email["result"]["to"] == "ann@example.com"
    assert rate["result"] == 2.5
    assert (unknown["outcome"], unknown["error"]["type"]) == ("failed", "HTTPStatusError")
    assert thumbnail["result"] == {"width": 64, "height": 48}
    assert refused.json()["detail"] == (
        "$.payload.currency: string should match pattern '^[A-Z]{3}$'; $.payload.factor: input"
        " should be greater than 0"
    )
    assert "Subject: Welcome" in world.sent()[0]
    assert world.saved() == [("EUR", 2.5)]
    with Image.open(target) as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))


async def test_the_tasks_run_under_the_command(world: World) -> None:
    async with under_the_command(world) as client:
        await check_all_three(client, "", world)


async def test_the_tasks_run_in_fastapi_under_uvicorn(world: World) -> None:
    async with under_uvicorn(world) as client:
        await check_all_three(client, "/queue", world)

        answer = await client.post("/register", json={**EMAIL, "to": "bob@example.com"})
        assert answer.status_code == 202
        job = answer.json()["job"]
        done = await client.get(job, headers={"Prefer": "wait=30"})

    assert done.json()["outcome"] == "succeeded"
    assert len(world.sent()) == 2


async def test_its_own_tests_pass(tmp_path: Path) -> None:
    plugins = ["-p", "trio_jobs.testing.plugin", "-p", "no:cacheprovider"]
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [*(sys.executable, "-m", "pytest", "-q"), *plugins, "-c", os.devnull, str(SHOP)],
            cwd=tmp_path,
            capture_stdout=True,
            check=False,
        )

    assert done.returncode == 0, done.stdout.decode()
    assert b"8 passed" in done.stdout
