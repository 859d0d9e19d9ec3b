"""The shop's tests: where SMTP, HTTP and the database are replaced, an hour takes no time."""

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self, cast

import aiosmtplib
import httpx
import pytest
import shop
import trio
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Mailbox
from PIL import Image

from trio_jobs import Handler, Jobs, Outcome, PayloadError, RetryPolicy

POLICY = RetryPolicy(attempts=3, backoff=[600, 3600], jitter=False, on=[OSError])
EMAIL = Handler.of(shop.send_email, run="asyncio", timeout=60, retry=POLICY)
RATE = Handler.of(shop.save_rate, run="asyncio", timeout=60)


class Sender:
    """In the place of aiosmtplib: takes ten seconds, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.sent: list[EmailMessage] = []
        self.failures = 0

    async def send(self, message: EmailMessage, **_: object) -> tuple[dict[str, object], str]:
        await asyncio.sleep(10)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the server is away")
        self.sent.append(message)
        return {}, "queued"


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> Sender:
    fake = Sender()
    monkeypatch.setattr(aiosmtplib, "send", fake.send)
    return fake


@pytest.mark.trio_jobs({"email": EMAIL})
async def test_email_is_sent(sender: Sender, jobs: Jobs) -> None:
    job = jobs.submit("email", shop.Email(to="ann@example.com", subject="Welcome"))

    assert await jobs.result(job.id) == {"to": "ann@example.com", "answer": "queued"}
    assert [message["To"] for message in sender.sent] == ["ann@example.com"]
    assert trio.current_time() == 10


@pytest.mark.trio_jobs({"email": EMAIL})
async def test_email_is_tried_for_more_than_an_hour(sender: Sender, jobs: Jobs) -> None:
    sender.failures = 2

    job = await jobs.wait(jobs.submit("email", {"to": "ann@example.com", "subject": "Hi"}).id)

    assert job.attempts == 3
    assert len(sender.sent) == 1
    assert trio.current_time() == 10 + 600 + 10 + 3600 + 10


@pytest.mark.trio_jobs({"email": EMAIL})
async def test_email_needs_an_address(jobs: Jobs) -> None:
    with pytest.raises(PayloadError, match=r"^\$\.payload\.to: value is not a valid email address"):
        jobs.submit("email", {"to": "ann", "subject": "Hi"})


class Session:
    """In the place of SQLAlchemy's session: shows what was committed last."""

    committed: tuple[shop.Rate, ...] = ()

    async def __aenter__(self) -> Self:
        self.added: list[shop.Rate] = []
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def add(self, rate: shop.Rate) -> None:
        self.added.append(rate)

    async def commit(self) -> None:
        await asyncio.sleep(0.5)
        type(self).committed = tuple(self.added)


async def answer_late(request: httpx.Request) -> httpx.Response:
    """In the place of the HTTP API: takes half a minute for euros, and longer for all others."""
    await asyncio.sleep(30 if request.url.path == "/rates/EUR" else 300)
    return httpx.Response(200, json={"value": 1.25})


@asynccontextmanager
async def fakes() -> AsyncIterator[shop.Shop]:
    transport = httpx.MockTransport(answer_late)
    async with httpx.AsyncClient(base_url="http://rates", transport=transport) as http:
        yield shop.Shop(http=http, session=cast("Any", Session))


@pytest.mark.trio_jobs({"rate": RATE}, lifespan={"asyncio": fakes})
async def test_rate_is_saved(jobs: Jobs) -> None:
    job = jobs.submit("rate", {"currency": "EUR", "factor": 2})

    assert await jobs.result(job.id) == 2.5
    assert [(each.currency, each.value) for each in Session.committed] == [("EUR", 2.5)]
    assert trio.current_time() == 30.5


@pytest.mark.trio_jobs({"rate": RATE}, lifespan={"asyncio": fakes})
async def test_rate_that_comes_too_late_is_not_saved(jobs: Jobs) -> None:
    Session.committed = ()

    job = await jobs.wait(jobs.submit("rate", {"currency": "USD"}).id)

    assert job.ending is not None
    assert job.ending.outcome is Outcome.TIMED_OUT
    assert Session.committed == ()
    assert trio.current_time() == 60


@pytest.mark.trio_jobs({"thumbnail": shop.make_thumbnail})
async def test_thumbnail(jobs: Jobs, tmp_path: Path) -> None:
    source, target = tmp_path / "photo.png", tmp_path / "small.jpg"
    Image.linear_gradient("L").resize((800, 600)).save(source)

    job = jobs.submit("thumbnail", {"source": source, "target": target, "size": 64})

    assert await jobs.result(job.id) == {"width": 64, "height": 48}
    with Image.open(target) as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))


# Real sockets, and a real database in a thread of its own: only the real clock waits for these.


@pytest.fixture
def mailbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the emails that a real SMTP server has received."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("SHOP_SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("SHOP_SMTP_PORT", str(port))
    server = Controller(Mailbox(tmp_path / "mail"), hostname="127.0.0.1", port=port)
    server.start()
    yield tmp_path / "mail/new"
    server.stop()


@pytest.mark.trio_jobs({"email": EMAIL}, mock_clock=False)
async def test_email_reaches_a_real_server(mailbox: Path, jobs: Jobs) -> None:
    job = jobs.submit("email", shop.Email(to="ann@example.com", subject="Welcome"))

    with trio.fail_after(10):
        await jobs.result(job.id)
    [message] = mailbox.iterdir()
    assert "Subject: Welcome" in message.read_text()


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for a real database."""
    monkeypatch.setenv("SHOP_DATABASE", str(tmp_path / "shop.db"))
    return tmp_path / "shop.db"


def answer_at_once(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"value": 1.25})


@asynccontextmanager
async def real_database() -> AsyncIterator[shop.Shop]:
    transport = httpx.MockTransport(answer_at_once)
    async with (
        shop.lifespan() as real,
        httpx.AsyncClient(base_url="http://rates", transport=transport) as http,
    ):
        yield shop.Shop(http=http, session=real.session)


@pytest.mark.trio_jobs({"rate": RATE}, lifespan={"asyncio": real_database}, mock_clock=False)
async def test_rate_reaches_a_real_database(database: Path, jobs: Jobs) -> None:
    with trio.fail_after(10):
        await jobs.result(jobs.submit("rate", {"currency": "EUR"}).id)

    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT currency, value FROM rates").fetchall() == [("EUR", 1.25)]
