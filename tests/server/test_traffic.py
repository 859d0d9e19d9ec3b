"""What a server counts of its clients, whichever way a request is answered."""

import logging
from collections import Counter

import pytest

from trio_jobs.server.traffic import OTHER, Traffic

from .serving import Receive, Scope, Send, chunked, echo, get, http_only, post, served

TOKEN = "t0k3n"  # noqa: S105 - of the tests

pytestmark = pytest.mark.usefixtures("ways")


def route_of(path: str) -> str:
    return path if path in {"/a", "/b", "/slow", "/error"} else OTHER


@http_only
async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/error":
        raise ValueError("a fault of the application")
    await echo(scope, receive, send)


@pytest.mark.parametrize("access_log", [False, True])
async def test_each_request_counts_once_by_route_method_and_status(
    caplog: pytest.LogCaptureFixture, *, access_log: bool
) -> None:
    caplog.set_level(logging.INFO, "trio_jobs.access")
    traffic = Traffic(route_of)
    async with served(
        app, access_log=access_log, traffic=traffic, token=TOKEN, health_path="/b"
    ) as server:
        client = await server.connect()
        token = f"Authorization: Bearer {TOKEN}"
        for data in (
            post(b"hello", "/a", token),
            post(b"hello", "/a?secret=1", token),
            get("/b"),
            get("/b", method="HEAD"),
            get("/error", token),
        ):
            await client.send(data)
            await client.receive_answer(head_only=data.startswith(b"HEAD"))
        await server.request(get("/a"))  # without the token
        await server.request(post(b"x", "/a", token, "Origin: http://evil.example"))
        await server.request(get("/jobs/4711", token))
        await server.request(get("/a", token, method="BREW"))
        await server.wait_alone()

    assert traffic.requests == {
        ("/a", "POST", 200): 2,
        ("/b", "GET", 200): 1,
        ("/b", "HEAD", 200): 1,
        ("/error", "GET", 500): 1,
        ("/a", "GET", 401): 1,
        ("/a", "POST", 403): 1,
        (OTHER, "GET", 200): 1,
        ("/a", OTHER, 200): 1,
    }
    lines = [each for each in caplog.records if each.name == "trio_jobs.access"]
    assert len(lines) == (7 if access_log else 0)  # without the health probes


async def test_what_is_no_request_counts_without_a_route() -> None:
    traffic = Traffic(route_of)
    async with served(app, traffic=traffic, header_timeout=0.1) as server:
        await server.exchange(b"NONSENSE\r\n\r\n")
        late = await server.connect(b"GET /a HTT")
        await late.receive_rest()
        await server.exchange(get("/a") + b"\x00\r\n\r\n")

    assert traffic.requests == {
        (OTHER, OTHER, 400): 2,
        (OTHER, OTHER, 408): 1,
        ("/a", "GET", 200): 1,
    }


async def test_request_that_breaks_a_limit_counts_for_its_route() -> None:
    traffic = Traffic(route_of)
    async with served(app, traffic=traffic, max_body_bytes=3, body_timeout=0.1) as server:
        await server.request(post(b"1234", "/a"))
        late = await server.connect(post(b"123", "/slow")[:-1])
        await late.receive_rest()

    assert traffic.requests == {("/a", "POST", 413): 1, ("/slow", "POST", 408): 1}


async def test_client_that_disconnects_before_its_answer_counts_without_a_status() -> None:
    traffic = Traffic(route_of)
    async with served(app, traffic=traffic) as server:
        client = await server.connect(post(b"body", "/a")[:-1])
        client.close()
        client = await server.connect(chunked(b"body", path="/a")[:-2])
        client.close()
        await server.wait_alone()

    assert traffic.requests == {("/a", "POST", None): 2}


def test_requests_for_very_many_targets_are_counted_and_their_targets_are_not_kept() -> None:
    traffic = Traffic(lambda path: "/jobs/{id}" if path.startswith("/jobs/") else OTHER)
    for n in range(5_000):
        traffic.note_sent(b"GET", b"/jobs/%d" % n, 200)
    traffic.note_sent(b"GET", b"/jobs/1?" + b"secret" * 1_000, None)
    kept = traffic._sent.copy()
    traffic.note_sent(b"brew", b"/pot", 405)

    assert kept == {}
    assert (
        traffic.requests
        == traffic.requests
        == {
            ("/jobs/{id}", "GET", 200): 5_000,
            ("/jobs/{id}", "GET", None): 1,
            (OTHER, OTHER, 405): 1,
        }
    )


async def test_open_connections_are_counted_and_the_warm_up_is_not() -> None:
    traffic = Traffic(route_of)
    async with served(app, traffic=traffic, health_path="/b") as server:
        assert traffic.requests == Counter()
        for number in (1, 2):
            client = await server.connect()
            await client.request(get("/a"))
            assert len(traffic.connections) == number
        for each in server.clients:
            each.close()
        await server.wait_alone()

        assert len(traffic.connections) == 0
