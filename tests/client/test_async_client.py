"""`AsyncClient` against answers of a script: what it asks, what it tries again, what it raises."""

import itertools
import json
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any

import anyio
import httpx
import msgspec
import pydantic
import pytest

from tests.client.support import URL, completed, job_answer, on_both_loops, problem, scripted
from trio_jobs.client import (
    AsyncClient,
    JobForgottenError,
    JobUnsuccessfulError,
    RefusedError,
    ServerGoneError,
)

WAITED = {"Preference-Applied": "wait=30", "Retry-After": "1"}


class Thumbnail(msgspec.Struct):
    """A result."""

    width: int


class Model(pydantic.BaseModel, strict=True):
    """A result that Pydantic makes, and not of texts."""

    day: datetime


@on_both_loops
async def test_job_is_submitted_with_a_key_of_its_own() -> None:
    client, script = scripted(job_answer(201))

    first = await client.submit("email", {"to": "ann"})
    await client.submit("email", {"to": "ann"})

    assert (first.id, first.status, first.completed) == ("a1", "pending", False)
    assert first.created_at == datetime(2026, 11, 25, 8, 0, 0, 1, tzinfo=UTC)
    assert script.lines == ["POST /jobs"] * 2
    assert json.loads(script.requests[0].content) == {"type": "email", "payload": {"to": "ann"}}
    keys = {request.headers["Idempotency-Key"] for request in script.requests}
    assert len(keys) == 2


@on_both_loops
async def test_key_and_time_are_the_callers() -> None:
    client, script = scripted(job_answer(201))
    noon = datetime(2026, 11, 25, 12, tzinfo=UTC)

    await client.submit("email", key="order-1", delay=2.5)
    await client.submit("email", run_at=noon)

    assert script.requests[0].headers["Idempotency-Key"] == "order-1"
    assert json.loads(script.requests[0].content)["delay"] == 2.5
    assert json.loads(script.requests[1].content)["run_at"] == "2026-11-25T12:00:00Z"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"key": ""}, "key must be 1 to 255 visible ASCII characters, got ''"),
        ({"key": "two words"}, "got 'two words'"),
        ({"key": "k" * 256}, "key must be"),
        ({"key": "ключ"}, "key must be"),
        ({"delay": float("nan")}, "delay must be a number of seconds, got nan"),
        ({"payload": float("inf")}, "the payload holds NaN or an infinity"),
        ({"payload": object()}, "the payload is not serialisable"),
    ],
)
@on_both_loops
async def test_what_no_server_could_take_is_not_sent(arguments: dict[str, Any], text: str) -> None:
    client, script = scripted(job_answer(201))

    with pytest.raises(ValueError, match=text):
        await client.submit("email", **arguments)

    assert script.requests == []


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, 507])
@on_both_loops
async def test_server_that_asks_for_another_try_gets_the_same_request(status: int) -> None:
    client, script = scripted(
        problem(status, Retry_After="2"),
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.DecodingError("incorrect header check"),
        job_answer(201),
    )

    await client.submit("email", 1)

    first, *others = [(each.headers["Idempotency-Key"], each.content) for each in script.requests]
    assert others == [first] * 4
    assert 2 < anyio.current_time() < 3


@pytest.mark.parametrize("status", [301, 400, 401, 403, 409, 413, 422, 500])
@on_both_loops
async def test_refusal_is_raised_at_once_with_its_text(status: int) -> None:
    client, script = scripted(problem(status, "$.payload: expected int, got str"))

    with pytest.raises(RefusedError, match="expected int") as caught:
        await client.submit("email", "x")

    assert (caught.value.status, len(script.requests)) == (status, 1)
    assert caught.value.detail == "$.payload: expected int, got str"


@on_both_loops
async def test_page_of_another_server_is_told_in_part() -> None:
    page = httpx.Response(404, text=f"<h1>\nNot here</h1>{'x' * 1000}")
    client, _ = scripted(page)

    with pytest.raises(RefusedError, match=r"^404: <h1> Not here</h1>x+$") as caught:
        await client.submit("email")
    assert len(caught.value.detail) == 300

    client, _ = scripted(httpx.Response(200, text="<h1>Welcome</h1>"))
    with pytest.raises(RefusedError, match=r"^200: the answer is no job: "):
        await client.submit("email")


@on_both_loops
async def test_client_gives_up_when_its_time_is_over() -> None:
    client, script = scripted(problem(429, "no room", Retry_After="1"), retry_for=10)

    with pytest.raises(ServerGoneError, match="gave up after 10 s: 429: no room"):
        await client.submit("email")

    assert (anyio.current_time(), len(script.requests)) == (10, 11)


@on_both_loops
async def test_wait_asks_again_until_the_job_has_completed() -> None:
    waits: list[float] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        await anyio.sleep(30)  # as a server does
        waits.append(request.extensions["timeout"]["read"])
        return job_answer(200, WAITED)

    client, script = scripted(answer, answer, completed(result=7))

    job = await client.wait("a1")

    assert (job.outcome, job.result) == ("succeeded", 7)
    assert script.lines == ["GET /jobs/a1"] * 3
    assert {request.headers["Prefer"] for request in script.requests} == {"wait=30"}
    assert anyio.current_time() == 60  # each look follows the one before at once
    assert waits == [40, 40]  # the client is patient for as long as the server may be


@pytest.mark.parametrize(("header", "pause"), [("2", 2), ("60", 5), ("", 1)])
@on_both_loops
async def test_look_that_did_not_wait_is_followed_by_a_pause(header: str, pause: float) -> None:
    headers = {"Retry-After": header} if header else {}
    client, _ = scripted(job_answer(200, headers), job_answer(200, headers), completed())

    await client.wait("a1")

    assert anyio.current_time() == 2 * pause


@on_both_loops
async def test_wait_ends_in_time_and_leaves_no_request() -> None:
    async def silent(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    client, script = scripted(silent)

    with pytest.raises(TimeoutError):
        await client.wait("a1", timeout=45)
    with pytest.raises(TimeoutError):
        await client.result("a1", timeout=5)

    assert anyio.current_time() == 50
    assert script.lines == ["GET /jobs/a1"] * 2


@on_both_loops
async def test_restart_in_a_long_wait_has_all_of_the_time() -> None:
    async def broken_off(_: httpx.Request) -> httpx.Response:
        await anyio.sleep(29)
        raise httpx.RemoteProtocolError("left without an answer")

    refused = [httpx.ConnectError("refused")] * 3
    client, _ = scripted(broken_off, *refused, completed(), retry_for=5)

    assert (await client.wait("a1")).completed


@on_both_loops
async def test_job_that_the_server_does_not_know_is_forgotten() -> None:
    client, script = scripted(problem(404, "no job 'a1'"))

    for call in (client.get, client.wait, client.result, client.cancel):
        with pytest.raises(JobForgottenError, match=r"does not know the job 'a1' \(any more\)"):
            await call("a1")

    assert len(script.requests) == 4


@pytest.mark.parametrize(
    ("kind", "result", "expected"),
    [
        (Any, {"width": 1}, {"width": 1}),
        (Thumbnail, {"width": 1}, Thumbnail(1)),
        (list[Thumbnail], [{"width": 1}], [Thumbnail(1)]),
        (PurePosixPath, "a/b", PurePosixPath("a/b")),
        (Model, {"day": "2026-11-25T00:00:00Z"}, Model(day=datetime(2026, 11, 25, tzinfo=UTC))),
        (type(None), None, None),
    ],
)
@on_both_loops
async def test_result_has_the_type_that_the_caller_names(
    kind: type[Any], result: object, expected: object
) -> None:
    client, _ = scripted(completed(result=result))

    assert await client.result("a1", type=kind) == expected


@pytest.mark.parametrize("kind", [Thumbnail, Model, PurePosixPath])
@on_both_loops
async def test_result_of_another_type_is_refused(kind: type[Any]) -> None:
    client, _ = scripted(completed(result={"width": "wide"}))

    with pytest.raises(msgspec.ValidationError):
        await client.result("a1", type=kind)


@on_both_loops
async def test_job_without_success_has_no_result() -> None:
    error = {"type": "ValueError", "message": "no such file"}
    client, _ = scripted(completed("failed", error=error))

    with pytest.raises(
        JobUnsuccessfulError, match=r"^job 'a1' failed: ValueError: no such file$"
    ) as caught:
        await client.run("email")

    assert caught.value.outcome == "failed"
    assert caught.value.error is not None
    assert (caught.value.id, caught.value.error.type) == ("a1", "ValueError")


@on_both_loops
async def test_withheld_result_is_not_taken_for_none() -> None:
    client, _ = scripted(completed(withheld=True))
    with pytest.raises(RefusedError, match="withholds the result from the role of this token"):
        await client.result("a1")

    client, _ = scripted(completed("failed", error={"type": "ValueError"}, withheld=True))
    with pytest.raises(JobUnsuccessfulError, match=r"^job 'a1' failed: ValueError$"):
        await client.result("a1")


@on_both_loops
async def test_words_of_a_later_server_are_taken() -> None:
    answer = completed("postponed", mood="fine", error={"type": "Withheld"}, withheld=True)
    client, _ = scripted(answer)

    job = await client.get("a1")

    assert (job.outcome, job.withheld) == ("postponed", True)
    assert job.error is not None
    assert job.error.message == ""


@on_both_loops
async def test_run_submits_a_job_and_takes_its_result() -> None:
    client, script = scripted(job_answer(201), completed(result={"width": 8}))

    assert await client.run("resize", {"file": "a"}, result=Thumbnail) == Thumbnail(8)
    assert script.lines == ["POST /jobs", "GET /jobs/a1"]


@on_both_loops
async def test_cancel_returns_the_job_at_once_or_when_it_has_ended() -> None:
    client, script = scripted(job_answer(202))
    assert not (await client.cancel("a1")).completed
    assert script.lines == ["POST /jobs/a1/cancel"]

    client, script = scripted(job_answer(202), job_answer(200, WAITED), completed("cancelled"))
    assert (await client.cancel("a1", wait=True)).outcome == "cancelled"
    assert script.lines == ["POST /jobs/a1/cancel", "GET /jobs/a1", "GET /jobs/a1"]

    client, script = scripted(completed("cancelled"))
    assert (await client.cancel("a1", wait=True)).outcome == "cancelled"
    assert script.lines == ["POST /jobs/a1/cancel"]


@on_both_loops
async def test_cancelled_call_is_cancelled_at_each_of_its_waits() -> None:
    for seconds in itertools.count():
        client, _ = scripted(problem(503, Retry_After="2"), httpx.ReadError(""), job_answer(201))
        with anyio.move_on_after(seconds) as scope:
            await client.submit("email")
        if not scope.cancelled_caught:
            break

    assert seconds == 3


@on_both_loops
async def test_id_is_one_part_of_the_path() -> None:
    client, script = scripted(completed())

    await client.get("../x?y=1#z/é")

    assert script.lines == ["GET /jobs/%2E%2E%2Fx%3Fy%3D1%23z%2F%C3%A9"]


@pytest.mark.parametrize("job_id", [".", ".."])
@on_both_loops
async def test_id_of_dots_leads_to_no_other_path(job_id: str) -> None:
    client, script = scripted(problem(404), problem(404))

    for method in (client.get, client.cancel):
        with pytest.raises(JobForgottenError):
            await method(job_id)

    name = job_id.replace(".", "%2E")
    assert script.lines == [f"GET /jobs/{name}", f"POST /jobs/{name}/cancel"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://host/?a=1",
        "http://host/#a",
        "http://host:99999",
        "http://host:http",
        "http://[::1",
        "http://ho\nst",
        "http://user:secret@host",
    ],
)
def test_url_must_be_one_of_http(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^url must be like http://host:8080, got "):
        AsyncClient(url)
    if url:
        monkeypatch.setenv("TRIO_JOBS_URL", url)
        with pytest.raises(ValueError, match=r"^TRIO_JOBS_URL must be like "):
            AsyncClient()


@on_both_loops
async def test_url_and_token_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    _, script = scripted(completed())
    http = httpx.AsyncClient(transport=script)

    async def asked(url: str | None = None, token: str | None = None) -> tuple[str, str | None]:
        await AsyncClient(url, token=token, http=http).get("a1")
        request = script.requests[-1]
        return str(request.url), request.headers.get("Authorization")

    for name in ("TRIO_JOBS_URL", "TRIO_JOBS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    assert await asked() == ("http://127.0.0.1:8080/jobs/a1", None)
    monkeypatch.setenv("TRIO_JOBS_URL", f"{URL}/queue/")
    monkeypatch.setenv("TRIO_JOBS_TOKEN", "secret")
    assert await asked() == (f"{URL}/queue/jobs/a1", "Bearer secret")
    assert await asked(url="https://other", token="mine") == (  # noqa: S106
        "https://other/jobs/a1",
        "Bearer mine",
    )


@pytest.mark.parametrize("token", ["two words", "new\nline", "ключ"])
def test_token_that_no_header_can_have_is_not_quoted(token: str) -> None:
    with pytest.raises(ValueError, match=r"^token must be visible ASCII characters$"):
        AsyncClient(URL, token=token)


@on_both_loops
async def test_http_client_of_the_caller_stays_open() -> None:
    _, script = scripted(completed())
    http = httpx.AsyncClient(transport=script)

    async with AsyncClient(URL, http=http) as client:
        await client.get("a1")
    assert not http.is_closed

    async with AsyncClient(URL) as client:
        own = client._http
    assert own.is_closed
