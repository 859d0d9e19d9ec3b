"""Each example does its work on real input, through the real command."""

import gc
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from PIL import Image

from tests.command import Command, running_command
from tests.support import load_function
from trio_jobs import Handler
from trio_jobs.testing import cancelled_at_each_step

EXAMPLES = Path(__file__).parents[2] / "examples"


@asynccontextmanager
async def example(name: str, folder: Path) -> AsyncIterator[Command]:
    """The command as the example's README section starts it, but from another folder."""
    config = EXAMPLES / name / "config.toml"
    async with running_command(folder, "--config", str(config)) as command:
        yield command


async def completed(
    command: Command, job_type: str, payload: Mapping[str, object]
) -> dict[str, Any]:
    """The job, submitted and completed."""
    job_id = await command.submit(job_type, payload)
    while True:
        job = await command.job(job_id)
        if job["status"] == "completed":
            return job
        await trio.sleep(0.01)


async def refusal(command: Command, job_type: str, payload: object) -> str:
    """The text of the 400 that answers a submission."""
    answer = await command.client.post("/jobs", json={"type": job_type, "payload": payload})
    assert answer.status_code == 400
    return str(answer.json()["detail"])


async def test_sha256(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"trio" * 1_000_000)

    async with example("sha256", tmp_path) as command:
        job = await completed(command, "sha256", {"path": str(file)})
        missing = await completed(command, "sha256", {"path": str(tmp_path / "missing")})
        refused = await refusal(command, "sha256", {"pth": str(file)})

    assert job["result"] == {
        "path": str(file),
        "bytes": 4_000_000,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    assert (missing["outcome"], missing["error"]["type"]) == ("failed", "FileNotFoundError")
    assert "unknown field pth" in refused


async def test_thumbnails(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    source = tmp_path / "photo.png"
    Image.linear_gradient("L").resize((800, 600)).convert("RGBA").save(source)
    target = tmp_path / "small.jpg"

    async with example("thumbnails", tmp_path) as command:
        job = await completed(
            command,
            "thumbnail",
            {"source": str(source), "target": str(target), "size": 64},
        )
        no_image = await completed(
            command,
            "thumbnail",
            {"source": str(EXAMPLES / "README.md"), "target": str(target)},
        )
        refused = await refusal(
            command, "thumbnail", {"source": str(source), "target": str(target), "size": 0}
        )

    assert job["result"] == {"target": str(target), "width": 64, "height": 48}
    with Image.open(target) as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))
    assert (no_image["outcome"], no_image["error"]["type"]) == ("failed", "UnidentifiedImageError")
    assert refused == "$.payload.size: expected int >= 1"


class Receiver:
    """A webhook's other end: answers by the path, and keeps what it got."""

    def __init__(self) -> None:
        self.events: list[object] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        head, body, length = b"", b"", 1
        received = b""
        async for piece in stream:
            received += piece
            head, end, body = received.partition(b"\r\n\r\n")
            if end:
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
            if len(body) >= length:
                break
        else:
            return  # the client has left
        if b"/silent" in head:
            await trio.sleep_forever()
        self.events.append(json.loads(body))
        status = b"500 No" if b"/broken" in head else b"204 Yes"
        await stream.send_all(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)


async def test_webhook(tmp_path: Path) -> None:
    receiver = Receiver()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_tcp, receiver.serve, 0, host="127.0.0.1")
        )
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        # The same handler, but with a time limit that a test can wait for.
        config = (EXAMPLES / "webhook" / "config.toml").read_text().replace("10.0", "5.0")
        handlers = (EXAMPLES / "webhook" / "webhooks.py").read_text()
        (tmp_path / "webhooks.py").write_text(handlers)

        async with running_command(tmp_path, config=config) as command:
            event = {"url": f"{url}/hook", "event": {"order": 7}}
            job = await completed(command, "webhook", event)
            broken = await completed(command, "webhook", event | {"url": f"{url}/broken"})
            silent = await completed(command, "webhook", event | {"url": f"{url}/silent"})
            refused = await refusal(command, "webhook", event | {"url": "ftp://example.org"})
        nursery.cancel_scope.cancel()

    assert receiver.events == [{"order": 7}, {"order": 7}]
    assert job["result"]["status"] == 204
    assert (broken["outcome"], broken["error"]["type"]) == ("failed", "HTTPStatusError")
    assert (silent["outcome"], silent["error"]["message"]) == (
        "timed_out",
        "the time limit of 5 s passed",
    )
    assert refused.startswith("$.payload.url: expected str matching regex")


# Of the request's body, which httpx does not close; there is nothing open in it.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")
async def test_webhook_can_be_cancelled_anywhere_and_closes_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "webhook")
    call_webhook = Handler.of(load_function("webhooks:call_webhook"))
    receiver = Receiver()
    connections: set[trio.SocketStream] = set()

    async def serve(stream: trio.SocketStream) -> None:
        connections.add(stream)
        with suppress(trio.BrokenResourceError):
            await receiver.serve(stream)
            async for _ in stream:  # until the client has closed it
                pass
        connections.remove(stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/hook"
        attempts = []
        async for attempt in cancelled_at_each_step(call_webhook, {"url": url, "event": {}}):
            with trio.fail_after(60):
                while connections:  # noqa: ASYNC110 - the network has no event for it
                    await trio.sleep(0.001)
            attempts.append(attempt)
        nursery.cancel_scope.cancel()
    gc.collect()  # so that the warnings come here

    assert len(attempts) > 5
    assert not attempts[1].returned


async def test_word_counts_can_be_cancelled_anywhere_and_leave_no_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES / "word_counts")
    count_words = Handler.of(load_function("words:count_words"))
    for n in range(3):
        (tmp_path / f"{n}.txt").write_text("one fish, two fish")
    tasks = trio.lowlevel.current_statistics().tasks_living

    attempts = []
    async for attempt in cancelled_at_each_step(count_words, {"path": str(tmp_path)}):
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        attempts.append(attempt)

    assert len(attempts) > 10
    assert not attempts[1].returned


async def test_word_counts(tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    for n in range(50):
        path = texts / f"{n % 5}" / f"{n}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("One fish, two fish.\n" * (n + 1))
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "latin.txt").write_bytes(b"caf\xe9")

    async with example("word_counts", tmp_path) as command:
        job = await completed(command, "word_counts", {"path": str(texts), "top": 2})
        not_utf8 = await completed(command, "word_counts", {"path": str(bad)})
        empty = await completed(command, "word_counts", {"path": str(EXAMPLES / "sha256")})

    lines = sum(range(1, 51))
    assert job["result"] == {
        "files": 50,
        "words": 4 * lines,
        "top": {"fish": 2 * lines, "one": lines},
    }
    assert (not_utf8["outcome"], not_utf8["error"]["type"]) == ("failed", "UnicodeDecodeError")
    assert empty["result"] == {"files": 0, "words": 0, "top": {}}
