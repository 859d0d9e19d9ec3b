"""The HTTP API over the real command and real sockets: what only the bytes can show."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import Command, Gate, configuration, running_command

SUBMISSION = b'{"type":"quick","payload":1}'
LINE = SUBMISSION + b"\n"


@asynccontextmanager
async def connection(server: Command) -> AsyncIterator[trio.SocketStream]:
    url = httpx.URL(server.url)
    async with await trio.open_tcp_stream(url.host, url.port or 0) as stream:
        yield stream


def head(request_line: str, *headers: str) -> bytes:
    return "\r\n".join([f"{request_line} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def post(target: str, body: bytes, *headers: str) -> bytes:
    return head(f"POST {target}", f"Content-Length: {len(body)}", *headers) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def read_all(stream: trio.SocketStream) -> list[tuple[int, str, bytes]]:
    """The answers until the server closes: status, head in lower case, body."""
    data = b"".join([bytes(part) async for part in stream])
    answers = []
    while data:
        top, _, data = data.partition(b"\r\n\r\n")
        text = top.decode().lower()
        length = 0
        for line in text.split("\r\n"):
            name, _, value = line.partition(": ")
            if name == "content-length":
                length = int(value)
        answers.append((int(text.split()[1]), text, data[:length]))
        data = data[length:]
    return answers


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    requests = [
        post("/jobs", SUBMISSION),
        head("GET /health"),
        head("HEAD /jobs"),
        post("/jobs/batch", b"[" + SUBMISSION + b"]"),
        head("PUT /jobs"),
        post("/jobs/", SUBMISSION),
        post("/jobs", b"no JSON"),
        head("GET /jobs?limit=1", "Connection: close"),
    ]
    async with (
        running_command(tmp_path, config=configuration("quick")) as server,
        connection(server) as stream,
    ):
        head_request = requests.index(head("HEAD /jobs"))
        await stream.send_all(b"".join(requests))
        answers = await read_all(stream)

    assert [status for status, _, _ in answers] == [201, 200, 200, 201, 405, 404, 400, 200]
    assert answers[head_request][2] == b""
    assert "allow: " in answers[4][1]


async def test_a_half_closed_client_that_waits_is_answered(tmp_path: Path) -> None:
    with Gate(tmp_path):
        async with (
            running_command(
                tmp_path, config=configuration("at_the_gate", grace_period=0)
            ) as server,
            connection(server) as stream,
        ):
            await stream.send_all(
                post("/jobs", b'{"type":"at_the_gate"}', "Prefer: wait=30", "Connection: close")
            )
            await stream.send_eof()
            [(status, _, body)] = await read_all(stream)

    assert status == 201
    assert json.loads(body)["status"] in ("pending", "processing")


@pytest.mark.parametrize("forced", [False, True])
async def test_a_stop_answers_clients_that_wait_for_a_job(tmp_path: Path, *, forced: bool) -> None:
    with Gate(tmp_path) as gate:
        config = configuration("at_the_gate", grace_period=60)
        async with running_command(tmp_path, config=config) as server, connection(server) as stream:
            job_id = await server.submit("at_the_gate")
            await server.wait_for_line("at_the_gate")
            # Sent before the signal: a request that comes when the pool has ended is not answered.
            await stream.send_all(head(f"GET /jobs/{job_id}", "Prefer: wait=30"))
            server.send(signal.SIGTERM)
            await server.wait_for_line("draining")
            if forced:
                await trio.sleep(0.3)  # a second signal counts only then
                server.send(signal.SIGTERM)
            else:
                gate.open()
            [(status, _, body)] = await read_all(stream)
            assert await server.wait_exit() == int(forced)

    job = json.loads(body)
    assert status == 200
    assert (job["status"], job.get("outcome")) == (
        ("pending", None) if forced else ("completed", "succeeded")
    )


@pytest.mark.parametrize(("lines", "accepted"), [(5, 5), (50, 10)])
async def test_sigterm_ends_a_stream_with_what_is_in(
    tmp_path: Path, lines: int, accepted: int
) -> None:
    # One job runs, nine are in the buffer, whose last place is for others: then it waits for room.
    config = configuration("at_the_gate", workers=1, buffer_size=10)
    with Gate(tmp_path) as gate:
        async with running_command(tmp_path, config=config) as server, connection(server) as stream:
            body = chunk(b'{"type":"at_the_gate","payload":1}\n' * lines)
            await stream.send_all(head("POST /jobs/stream", "Transfer-Encoding: chunked") + body)
            await server.wait_for_line("at_the_gate")
            server.send(signal.SIGTERM)
            [(status, text, answer)] = await read_all(stream)
            gate.open()
            assert await server.wait_exit() == 0

    assert (status, json.loads(answer)["accepted"]) == (503, accepted)
    assert "retry-after: " in text
    assert "connection: close" in text
    assert (tmp_path / "ledger").read_text().count("1") == accepted


async def test_a_full_buffer_slows_the_client_down_by_tcp(tmp_path: Path) -> None:
    config = configuration("at_the_gate", workers=1, buffer_size=10)
    piece = chunk(b'{"type":"at_the_gate","payload":1}\n' * 1000)
    with Gate(tmp_path) as gate:
        async with running_command(tmp_path, config=config) as server, connection(server) as stream:
            await stream.send_all(head("POST /jobs/stream", "Transfer-Encoding: chunked"))
            sent = 0
            # Far more than the sockets' buffers hold: it stops, and meanwhile others are served.
            with trio.move_on_after(1) as limit:
                for _ in range(2000):
                    await stream.send_all(piece)
                    sent += 1
            assert limit.cancelled_caught
            assert (await server.client.get("/health")).status_code == 200
            status = (await server.client.get("/health/ready")).json()
            assert (status["buffered"], status["busy"]) == (9, 1)
            server.send(signal.SIGTERM)
            gate.open()
            assert await server.wait_exit() == 0

    assert sent < 2000


async def test_a_stream_longer_than_any_body_may_be_is_taken(tmp_path: Path) -> None:
    config = configuration("quick").replace("[http]", "[http]\nmax_body_bytes = 1000")
    async with running_command(tmp_path, config=config) as server:
        answer = await server.client.post("/jobs/stream", content=LINE * 2000)

        assert (answer.status_code, answer.json()) == (201, {"accepted": 2000})
        answer = await server.client.post("/jobs/batch", content=b"[" + b" " * 2000 + b"]")
        assert answer.status_code == 413


async def test_clients_that_hang_up_in_a_wait_leave_nothing_behind(tmp_path: Path) -> None:
    config = configuration("at_the_gate", "quick").replace("[http]", "[http]\nmax_waiters = 1")
    with Gate(tmp_path):
        async with running_command(tmp_path, config=config) as server:
            job_id = await server.submit("at_the_gate")
            waiting = {"Prefer": "wait=30"}
            for _ in range(5):
                async with connection(server) as stream:
                    await stream.send_all(head(f"GET /jobs/{job_id}", "Prefer: wait=30"))
                # The one place for a waiter is free again once the server has seen it leave.
                while True:
                    answer = await server.client.post(
                        "/jobs", json={"type": "quick"}, headers=waiting
                    )
                    if "preference-applied" in answer.headers:
                        break
            assert answer.json()["outcome"] == "succeeded"
            server.send(signal.SIGTERM)
