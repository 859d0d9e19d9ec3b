"""Which requests take the fast path, and that it gives the answer of the ordinary way."""

import logging
from typing import NoReturn

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api, accept, answer_now, handlers_of
from tests.durable import make_durable_parts
from tests.server.serving import get, post, served
from tests.support import ANYONE, Config, HttpSettings
from trio_jobs import Handler, open_jobs
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.fast_path import FastPath
from trio_jobs.asgi import ConfiguredApp

ID = "01936d3c-0000-7000-8000-000000000000"


@pytest.fixture
def fast_path() -> None:
    """The tests themselves name the way."""


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/jobs/"),
        ("POST", "//jobs"),
        ("POST", "/jobs?"),
        ("POST", "/jobs?x=1"),
        ("POST", "/job%73"),
        ("POST", "/Jobs"),
        ("POST", "http://test/jobs"),
        ("POST", "/jobs/batch"),
        ("POST", "/jobs/stream"),
        ("POST", f"/jobs/{ID}"),
        ("POST", f"/jobs/{ID}/cancel"),
        ("GET", "/jobs"),
        ("GET", f"/jobs/{ID}/"),
        ("GET", f"/jobs/{ID}?"),
        ("GET", f"/jobs/{ID}\n"),
        ("GET", f"/jobs/{ID.upper()}"),
        ("GET", f"/jobs/{ID[1:]}"),
        ("GET", f"/jobs/{{{ID}}}"),
        ("GET", f"/jobs/{ID.replace('-', '')}"),
        ("GET", f"//jobs/{ID}"),
        ("GET", "/health"),
        ("GET", "/openapi.json"),
        ("HEAD", f"/jobs/{ID}"),
        ("HEAD", "/jobs"),
        ("PUT", "/jobs"),
        ("DELETE", f"/jobs/{ID}"),
        ("OPTIONS", "/jobs"),
        ("post", "/jobs"),
        ("get", f"/jobs/{ID}"),
    ],
)
async def test_other_paths_and_methods_take_the_ordinary_way(method: str, target: str) -> None:
    api = Api()

    assert answer_now(api.both_ways, method, target, {}, SUBMISSION) is None
    assert len(api.parts.store) == 0


@pytest.mark.parametrize("header", ["Prefer", "Content-Encoding"])
@pytest.mark.parametrize("value", ["", "identity", "wait=0"])
@pytest.mark.parametrize(("method", "target"), [("POST", "/jobs"), ("GET", f"/jobs/{ID}")])
async def test_requests_that_ask_for_more_take_the_ordinary_way(
    method: str, target: str, header: str, value: str
) -> None:
    api = Api()

    assert answer_now(api.both_ways, method, target, {header: value}, SUBMISSION) is None
    assert len(api.parts.store) == 0


class NoTracing:
    """Makes no span."""

    def submitting(self, _traceparent: str | None, _job_type: str | None) -> NoReturn:
        raise AssertionError


async def test_submission_that_needs_a_span_takes_the_ordinary_way() -> None:
    api = Api(tracing=NoTracing())

    assert answer_now(api.both_ways, "POST", "/jobs", {}, SUBMISSION) is None
    assert len(api.parts.store) == 0
    assert answer_now(api.both_ways, "GET", f"/jobs/{ID}", {}, b"") is not None


async def test_host_and_plain_servers_never_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(FastPath, "__init__", forbidden)
    configured = ConfiguredApp(Config(), handlers_of({"email": accept}))
    async with open_jobs({"email": accept}, workers=1) as jobs:
        for app in (jobs.asgi(), configured):
            async with served(app) as server:
                submitted = await server.request(post(SUBMISSION, "/jobs"))
                shown = await server.request(get(submitted.headers["location"]))

            assert not hasattr(app, "answer_now")
            assert (submitted.status, shown.status) == (201, 200)


async def test_fault_is_a_500_without_a_traceback_which_the_log_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = Api()

    def broken(_job_id: str) -> None:
        raise RuntimeError("the secret cause")

    api.parts.store.find_nowait = broken  # type: ignore[method-assign, assignment]
    app = FastPath(api.context, find=api.parts.store.find_nowait)
    async with served(app) as server:
        answer = await server.request(get(f"/jobs/{ID}"))
        assert (await server.request(post(SUBMISSION, "/jobs"))).status == 201

    assert answer.status == 500
    assert "secret" not in answer.json()["detail"]
    assert answer.headers["cache-control"] == "no-store"
    [line] = [record for record in caplog.records if record.levelno > logging.WARNING]
    assert line.getMessage() == "request_failed"
    assert "the secret cause" in caplog.text


async def test_submission_over_a_file_takes_it_and_is_answered_when_it_is_on_the_disk() -> None:
    parts = make_durable_parts({"default": Handler.of(accept)})
    http = HttpSettings()
    context = ApiContext(pool=parts.pool, http=http, shutdown_retry_after=7)
    fast_path = FastPath(context, find=parts.store.find_nowait)
    fields = {b"host": b"test"}
    answers: list[tuple[int, bytes]] = []

    async def submit(body: bytes) -> None:
        answer = fast_path.answer_now("POST", b"/jobs", fields, body, ANYONE)
        assert answer is not None
        assert not isinstance(answer, tuple)
        status, _, content = await answer
        answers.append((status, content))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit, SUBMISSION)
        await wait_all_tasks_blocked()
        assert answers == []
        parts.journal.commit()
        await wait_all_tasks_blocked()
        nursery.start_soon(submit, b"{}")
        nursery.start_soon(submit, SUBMISSION)
        await wait_all_tasks_blocked()
        parts.journal.refuse()
        await wait_all_tasks_blocked()
        parts.admission.close()
        nursery.start_soon(submit, SUBMISSION)

    assert [status for status, _ in answers] == [201, 400, 507, 503]
    job_id = msgspec.json.decode(answers[0][1])["id"]
    assert fast_path.answer_now("GET", f"/jobs/{job_id}".encode(), fields, b"", ANYONE) is not None
    # It is not in memory: only the file can tell, and nobody can wait here.
    other = b"/jobs/01a210e0-0000-7000-8000-000000000001"
    assert fast_path.answer_now("GET", other, fields, b"", ANYONE) is None
