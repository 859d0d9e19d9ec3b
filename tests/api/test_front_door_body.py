"""What a server may offer for a request's body: limits of its own, which a stream has lifted."""

import math
from importlib import metadata

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api, assert_problem
from tests.support import Problem, make_parts, take
from trio_jobs.testing.asgi_client import App, Client, Message


def broken_limit(status: int, detail: str = "the body breaks a limit") -> Problem:
    """As the HTTP server raises it."""
    return Problem(status, detail, headers={"Connection": "close"})


class Body:
    """As the HTTP server offers it; after the first message the body breaks a limit."""

    complete = None

    def __init__(self, refusal: Problem) -> None:
        self.refusal = refusal
        self.idle_timeouts: list[float] = []

    def lift(self, *, idle_timeout: float) -> None:
        self.idle_timeouts.append(idle_timeout)

    def before(self, app: App) -> App:
        async def front_door(scope: Message, receive: App, send: App) -> None:
            messages = [{"type": "http.request", "body": SUBMISSION + b"\n", "more_body": True}]

            async def limited() -> Message:
                await trio.lowlevel.checkpoint()
                if not messages:
                    raise self.refusal
                return messages.pop()

            scope["extensions"]["trio_jobs.body"] = self
            await app(scope, limited, send)

        return front_door


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
@pytest.mark.parametrize("status", [400, 408, 413])
async def test_a_limit_of_the_servers_is_answered_in_the_one_form_of_errors(
    path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api()
    body = Body(broken_limit(status))
    client = Client(body.before(api.app))

    async with client.open("POST", path) as exchange:
        answer = await exchange.answer()

    assert assert_problem(answer, status)["detail"] == "the body breaks a limit"
    assert answer.headers["connection"] == "close"
    assert body.idle_timeouts == []
    assert len(api.parts.store) == 0
    assert not caplog.records


async def test_a_stream_has_the_limits_lifted_and_says_what_it_got_when_the_server_refuses() -> (
    None
):
    api = Api()
    body = Body(broken_limit(400, "bad chunk"))
    client = Client(body.before(api.app))

    async with client.open("POST", "/jobs/stream") as exchange:
        answer = await exchange.answer()

    assert assert_problem(answer, 400)["accepted"] == 1
    assert body.idle_timeouts == [math.inf, 30, 30]  # as long as it reads, not before


async def test_a_refusal_while_lines_wait_for_room_comes_after_them() -> None:
    api = Api(parts=make_parts(buffer_size=2))
    body = Body(broken_limit(400, "bad chunk"))
    api.parts.admission.submit("email", b"null")
    client = Client(body.before(api.app))

    async with client.open("POST", "/jobs/stream") as exchange:
        await wait_all_tasks_blocked()
        assert len(api.parts.store) == 1
        take(api.parts)
        answer = await exchange.answer()

    assert assert_problem(answer, 400)["accepted"] == 1


async def test_the_description_needs_no_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)

    answer = await Api().client.get("/openapi.json")

    assert answer.json()["info"]["version"] == "0"


@pytest.mark.parametrize("status", [400, 408, 413])
async def test_a_body_that_breaks_a_limit_during_a_wait_is_refused(status: int) -> None:
    api = Api()
    job = api.parts.admission.submit("echo", b"null")
    client = Client(Body(broken_limit(status)).before(api.app))

    async with client.open("GET", f"/jobs/{job.id}", headers={"prefer": "wait=50"}) as exchange:
        answer = await exchange.answer()

    assert assert_problem(answer, status)["detail"] == "the body breaks a limit"
