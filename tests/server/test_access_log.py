"""One line for each request, if it is wanted."""

import logging

import pytest

from .serving import Receive, Scope, Send, echo, get, http_only, post, served

pytestmark = pytest.mark.usefixtures("ways")


async def test_the_access_log_is_off_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_jobs.access")
    async with served(echo) as server:
        await server.request(get())

    assert "trio_jobs.access" not in {record.name for record in caplog.records}


async def test_each_request_is_one_line_with_what_was_asked_and_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/error":
            raise ValueError("a fault of the application")
        await echo(scope, receive, send)

    caplog.set_level(logging.INFO, "trio_jobs.access")
    async with served(app, access_log=True, health_path="/warm") as server:
        client = await server.connect()
        answers = [
            await client.request(post(b"hello", "/a?secret=1")),
            await client.request(get("/b")),
            await client.request(get("/error")),
            await server.request(post(b"x", "/c", "Origin: http://evil.example")),
        ]
        await server.exchange(b"NONSENSE\r\n\r\n")

    lines = [vars(record) for record in caplog.records if record.name == "trio_jobs.access"]
    assert [(x["method"], x["path"], x["status"], x["bytes"]) for x in lines] == [
        ("POST", "/a", 200, 5),
        ("GET", "/b", 200, 0),
        ("GET", "/error", 500, len(answers[2].body)),
        ("POST", "/c", 403, len(answers[3].body)),
    ]
    assert all(0 <= x["duration"] < 10 for x in lines)
    assert all(x["client"].startswith("127.0.0.1:") for x in lines)


async def test_requests_that_are_refused_are_logged_as_they_were_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "trio_jobs.access")
    async with served(echo, access_log=True, body_timeout=0.2) as server:
        client = await server.connect(post(b"body", "/slow")[:-1])
        stalled = await client.receive_answer()
        client.close()
        strange = await server.exchange(get("a:1", method="CONNECT"))

    lines = [vars(record) for record in caplog.records if record.name == "trio_jobs.access"]
    assert [(x["method"], x["path"], x["status"]) for x in lines] == [
        ("POST", "/slow", 408),
        ("CONNECT", "a:1", 501),
    ]
    bodies = [stalled.body, strange.partition(b"\r\n\r\n")[2]]
    assert [x["bytes"] for x in lines] == [len(body) for body in bodies]


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ([], None),
        (["X-Forwarded-For: 203.0.113.7"], "203.0.113.7"),
        (["X-Forwarded-For: a, b", "X-Forwarded-For: c", "Forwarded: for=d"], "a, b, c"),
        (["Forwarded: for=203.0.113.7;proto=https"], "for=203.0.113.7;proto=https"),
        # What the nearest proxy has added is at the end.
        (["X-Forwarded-For: " + "x, " * 300 + "203.0.113.7"], ("x, " * 300 + "203.0.113.7")[-200:]),
    ],
)
async def test_whom_a_proxy_asks_for_is_told_and_not_believed(
    caplog: pytest.LogCaptureFixture, headers: list[str], told: str | None
) -> None:
    caplog.set_level(logging.INFO, "trio_jobs.access")
    async with served(echo, access_log=True) as server:
        await server.request(get("/a", *headers))

    [line] = [vars(record) for record in caplog.records if record.name == "trio_jobs.access"]
    assert line["client"].startswith("127.0.0.1:")
    assert line.get("forwarded_for") == told


async def test_probes_are_logged_only_when_something_is_wrong(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @http_only
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        status = 503 if scope["path"] == "/health/ready" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})

    caplog.set_level(logging.DEBUG, "trio_jobs.access")
    async with served(app, access_log=True, health_path="/health") as server:
        for request in (
            get("/health"),
            get("/health", method="HEAD"),
            get("/health/ready"),
            get("/healthy"),
            post(b"", "/health"),
        ):
            await server.exchange(request)

    lines = [record for record in caplog.records if record.name == "trio_jobs.access"]
    assert [(vars(x)["method"], vars(x)["path"], x.levelname) for x in lines] == [
        ("GET", "/health", "DEBUG"),
        ("HEAD", "/health", "DEBUG"),
        ("GET", "/health/ready", "INFO"),
        ("GET", "/healthy", "INFO"),
        ("POST", "/health", "INFO"),
    ]
