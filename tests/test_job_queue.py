"""`JobQueue` in programs on Trio, on asyncio and on uvloop."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trio
from hypercorn.middleware.dispatcher import AsyncioDispatcherMiddleware, TrioDispatcherMiddleware
from quart import Quart
from quart_trio import QuartTrio
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.hosts import on_each_host
from trio_jobs import (
    Access,
    Handler,
    HandlerError,
    InvalidTransitionError,
    JobContext,
    JobNotFoundError,
    JobQueue,
    JobStatus,
    JobUnsuccessfulError,
    KeyReusedError,
    LifespanError,
    Outcome,
    PayloadError,
    QueueFullError,
    Role,
    ShuttingDownError,
    StoreFileError,
    UnknownTypeError,
)

JOB = {"type": "double", "payload": 21}


async def double(number: int) -> int:
    await trio.lowlevel.checkpoint()
    return number * 2


def negative(number: int) -> int:
    return -number


async def fail(_payload: object) -> None:
    raise ValueError("no such address")


async def stuck(_payload: object) -> None:
    await trio.sleep_forever()


HANDLERS = {"double": double, "negative": negative, "fail": fail, "stuck": stuck}


def make_queue(**options: Any) -> JobQueue:  # noqa: ANN401
    return JobQueue(HANDLERS, **{"grace_period": 0.05, **options})


@on_each_host
async def test_jobs_are_submitted_and_waited_for() -> None:
    queue = make_queue()
    async with queue.lifespan():
        job = await queue.submit("double", 21)
        assert job.status is JobStatus.PENDING
        assert (await queue.wait(job.id)).outcome is Outcome.SUCCEEDED
        assert await queue.result(job.id, type=int) == 42
        assert (await queue.get(job.id)).status is JobStatus.COMPLETED

        jobs = await queue.submit_all([("negative", 1), ("negative", 2)])
        assert [await queue.result(each.id) for each in jobs] == [-1, -2]
        assert [each.id for each in await queue.page(limit=2)] == [job.id, jobs[0].id]
        await queue.delete(job.id)
        with pytest.raises(JobNotFoundError):
            await queue.get(job.id)

        failed = await queue.submit_when_possible("fail")
        with pytest.raises(JobUnsuccessfulError, match="no such address"):
            await queue.result(failed.id)
        again = await queue.rerun(failed.id)
        await queue.wait(again.id)
        [third] = await queue.rerun_all()
        assert (again.rerun_of, third.rerun_of) == (failed.id, again.id)

        await queue.wait(third.id)

        await queue.drain()
        assert (await queue.statistics()).status == "shutting down"
        assert queue.unfinished() == ([], [])


@on_each_host
async def test_handlers_on_trio_and_in_threads_submit_jobs_of_their_own() -> None:
    async def on_trio(number: int) -> int:
        job = await queue.submit("double", number)
        return await queue.result(job.id, type=int)

    def in_thread(number: int) -> int:
        return trio.from_thread.run(on_trio, number)

    queue = JobQueue({"double": double, "on_trio": on_trio, "in_thread": in_thread})
    async with queue.lifespan():
        jobs = [await queue.submit(each, 21) for each in ("on_trio", "in_thread")]

        assert [await queue.result(each.id) for each in jobs] == [42, 42]


@on_each_host
async def test_job_may_wait_for_a_time_and_have_a_key() -> None:
    queue = make_queue()
    async with queue.lifespan():
        late = await queue.submit("double", 1, delay=1000, key="order-1")
        assert (await queue.submit("double", 1, delay=1000, key="order-1")).id == late.id
        with pytest.raises(KeyReusedError):
            await queue.submit("double", 2, key="order-1")
        past = await queue.submit("double", 1, run_at=datetime(2000, 1, 1, tzinfo=UTC))
        assert await queue.result(past.id) == 2
        await queue.cancel(late.id)
        assert (await queue.wait(late.id)).outcome is Outcome.CANCELLED


@on_each_host
async def test_submission_is_refused_as_in_a_program_of_its_own() -> None:
    queue = make_queue(workers=1, buffer_size=1)
    async with queue.lifespan():
        with pytest.raises(UnknownTypeError):
            await queue.submit("nothing")
        with pytest.raises(PayloadError):
            await queue.submit("double", "text")
        running = await queue.submit("stuck")
        await queue.submit_when_possible("stuck")  # a worker has taken the first one
        with pytest.raises(QueueFullError):
            await queue.submit("stuck")
        with pytest.raises(InvalidTransitionError):
            await queue.delete(running.id)
        await queue.cancel(running.id)
        assert (await queue.submit_when_possible("double", 1)).type == "double"


@on_each_host
async def test_end_of_the_lifespan_completes_the_jobs_and_answers_those_that_wait() -> None:
    queue = make_queue(grace_period=1000)
    async with queue.lifespan():
        jobs = await queue.submit_all([("double", n) for n in range(50)])

    with pytest.raises(ShuttingDownError, match="the application's lifespan opens it"):
        await queue.get(jobs[0].id)
    with pytest.raises(ShuttingDownError):
        queue.unfinished()


@on_each_host
async def test_jobs_that_outlast_the_grace_period_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = make_queue(workers=1, buffer_size=1)
    async with queue.lifespan():
        begun = await queue.submit("stuck")
        waiting = await queue.submit_when_possible("stuck")  # a worker has taken the first one

    named = {each.message: vars(each)["job_ids"] for each in caplog.records}
    assert named == {"jobs_interrupted": begun.id, "jobs_not_started": waiting.id}


@on_each_host
async def test_exception_in_the_lifespan_cuts_jobs_short_and_comes_out_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = make_queue(grace_period=1000)
    error = ValueError("the application's")
    with pytest.raises(ValueError, match="the application's") as caught:  # noqa: PT012
        async with queue.lifespan():
            await queue.submit("stuck")
            raise error

    assert caught.value is error
    assert "pool_failed" not in caplog.messages


@on_each_host
async def test_queue_is_opened_again_after_its_end_and_not_before() -> None:
    queue = make_queue()
    for _ in range(2):
        async with queue.lifespan():
            with pytest.raises(RuntimeError, match=r"^the queue is open already$"):
                async with queue.lifespan():
                    pytest.fail("it is open twice")
            job = await queue.submit("double", 21)
            assert await queue.result(job.id) == 42


@on_each_host
async def test_two_queues_know_nothing_of_each_other() -> None:
    first, second = make_queue(), make_queue()
    async with first.lifespan(), second.lifespan():
        job = await first.submit("double", 21)
        with pytest.raises(JobNotFoundError):
            await second.get(job.id)
        assert await first.result(job.id) == 42


@on_each_host
async def test_jobs_in_a_file_survive_the_queue(tmp_path: Path) -> None:
    queue = make_queue(path=tmp_path / "jobs.db")
    async with queue.lifespan():
        job = await queue.submit("double", 21, key="k")
        assert await queue.result(job.id) == 42
        with pytest.raises(StoreFileError) as refused:
            async with make_queue(path=tmp_path / "jobs.db").lifespan():
                pytest.fail("two pools have one file")
        # A server prints the traceback.
        assert refused.traceback[-1].name == "lifespan"

    async with queue.lifespan():
        assert (await queue.submit("double", 21, key="k")).id == job.id
        assert await queue.result(job.id) == 42


@on_each_host
async def test_pool_that_fails_ends_the_lifespan(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run_worker(jobs: trio.MemoryReceiveChannel[str], *_: object) -> None:
        await jobs.receive()
        raise LookupError("a bug of ours")

    monkeypatch.setattr("trio_jobs.pool.worker.run_worker", run_worker)
    queue = make_queue(grace_period=1000)
    with pytest.RaisesGroup(LookupError, flatten_subgroups=True):
        async with queue.lifespan():
            job = await queue.submit("double", 21)
            with suppress(ShuttingDownError):
                await queue.wait(job.id)

    assert "pool_failed" in caplog.messages


# Handlers on asyncio. --------------------------------------------------------------------------


async def where(_payload: object) -> int:
    await asyncio.sleep(0)
    return id(asyncio.get_running_loop())


def own_loop() -> int | None:
    return None if trio.lowlevel.in_trio_task() else id(asyncio.get_running_loop())


@on_each_host
async def test_asyncio_handlers_run_on_the_applications_own_loop() -> None:
    """If the application is on Trio, they have one of their own."""
    queue = JobQueue({"where": Handler.of(where, run="asyncio")}, workers=1)
    async with queue.lifespan():
        loops = [await queue.result((await queue.submit("where")).id) for _ in range(2)]

    assert loops[0] == loops[1]
    assert own_loop() in {None, loops[0]}


@on_each_host
async def test_async_handlers_run_on_asyncio_if_the_queue_says_so() -> None:
    queue = JobQueue({"where": where}, async_handlers="asyncio")
    async with queue.lifespan():
        job = await queue.wait((await queue.submit("where")).id)

    assert job.outcome is Outcome.SUCCEEDED


@on_each_host
async def test_asyncio_handler_ends_at_its_limit_and_with_the_grace_period() -> None:
    story: list[str] = []
    begun: list[str] = []
    all_begun = threading.Event()

    async def stay(name: str) -> None:
        begun.append(name)
        if len(begun) == 3:
            all_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            story.append(f"{name} unwound")

    handlers = {
        "limited": Handler.of(stay, run="asyncio", timeout=0.05),
        "stuck": Handler.of(stay, run="asyncio"),
    }
    queue = JobQueue(handlers, workers=2, buffer_size=1, grace_period=0.05)
    async with queue.lifespan():
        while not begun:  # on a busy machine, the limit may pass before the handler's first step
            limited = await queue.submit("limited", "limited")
            assert (await queue.wait(limited.id)).outcome is Outcome.TIMED_OUT
        for name in ("a", "b", "c"):  # two of them are claimed when there is room for the third
            await queue.submit_when_possible("stuck", name)
        await anyio.to_thread.run_sync(all_begun.wait)

    assert story[0] == "limited unwound"
    assert sorted(story[1:]) == ["a unwound", "b unwound"]


@on_each_host
async def test_lifespan_of_asyncio_handlers_is_on_the_same_loop() -> None:
    story: list[object] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[str]:
        story.append(id(asyncio.get_running_loop()))
        yield "a shop"
        story.append(id(asyncio.get_running_loop()))

    async def use(number: int, context: JobContext[str]) -> str:
        story.append(id(asyncio.get_running_loop()))
        return f"{context.state} {number}"

    queue = JobQueue(
        {"use": Handler.of(use, run="asyncio")}, lifespan={"asyncio": lifespan}, grace_period=1000
    )
    async with queue.lifespan():
        assert await queue.result((await queue.submit("use", 7)).id) == "a shop 7"

    assert len(story) == 3
    assert len(set(story)) == 1
    assert own_loop() in {None, story[0]}


@on_each_host
async def test_lifespan_that_does_not_open_leaves_the_queue_closed() -> None:
    broken = True

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        if broken:
            raise ConnectionRefusedError("no database")
        yield

    handlers = {"where": Handler.of(where, run="asyncio")}
    queue = JobQueue(handlers, lifespan={"asyncio": lifespan})
    with pytest.raises(LifespanError, match="no database"):
        async with queue.lifespan():
            pytest.fail("it is open")
    broken = False
    async with queue.lifespan():
        assert (await queue.submit("where")).type == "where"


@on_each_host
async def test_lifespan_that_fails_later_ends_that_of_the_application(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[asyncio.Event]:
        failing = asyncio.Event()
        async with asyncio.TaskGroup() as group:

            async def fail() -> None:
                await failing.wait()
                raise LookupError("lost")

            group.create_task(fail())
            yield failing

    async def use(_payload: object, context: JobContext[asyncio.Event]) -> None:
        context.state.set()

    handlers = {"use": Handler.of(use, run="asyncio")}
    queue = JobQueue(handlers, lifespan={"asyncio": lifespan}, grace_period=1000)
    with pytest.RaisesGroup(LookupError, flatten_subgroups=True, allow_unwrapped=True):
        async with queue.lifespan():
            job = await queue.submit("use")
            with suppress(ShuttingDownError):
                await queue.wait(job.id)
            await anyio.Event().wait()

    assert "lifespan_failed" in caplog.messages
    assert "pool_failed" in caplog.messages


@on_each_host
async def test_state_is_what_the_application_has_opened_itself() -> None:
    async def use(_payload: object, context: JobContext[str]) -> str:
        await asyncio.sleep(0)
        return context.state

    queue = JobQueue({"use": Handler.of(use, run="asyncio")}, state={"asyncio": "none"})
    for state in ("first", "second"):
        async with queue.lifespan(state={"asyncio": state}):
            assert await queue.result((await queue.submit("use")).id) == state


# HTTP. ----------------------------------------------------------------------------------------


def mounted(queue: JobQueue) -> Starlette:
    return Starlette(routes=[Mount("/queue", queue)], lifespan=queue.lifespan)


def client_of(app: Any, **headers: str) -> httpx.AsyncClient:  # noqa: ANN401
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers)


@asynccontextmanager
async def served(queue: JobQueue, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    app = mounted(queue)
    async with app.router.lifespan_context(app), client_of(app, **headers) as client:
        yield client


@on_each_host
async def test_whole_api_is_below_the_mount() -> None:
    queue = make_queue(workers=1, buffer_size=2)
    async with served(queue) as client:
        submitted = await client.post("/queue/jobs", json=JOB)
        job_id = submitted.json()["id"]
        place = submitted.headers["location"]
        assert (submitted.status_code, place) == (201, f"/queue/jobs/{job_id}")
        waited = await client.get(place, headers={"Prefer": "wait=30"})
        assert waited.json()["result"] == 42
        assert await queue.result(job_id) == 42

        line = b'{"type": "double", "payload": 1}\n'
        streamed = await client.post("/queue/jobs/stream", content=line * 300)
        assert streamed.json() == {"accepted": 300}
        await queue.wait((await queue.page(limit=1000))[-1].id)
        page = await client.get("/queue/jobs?limit=100")
        assert page.links["next"]["url"].startswith("/queue/jobs?limit=100&after=")

        document = (await client.get("/queue/openapi.json")).json()
        assert document["servers"] == [{"url": "/queue"}]
        assert (await client.get("/queue/health/ready")).json()["workers"] == 1
        assert (await client.get("/queue/nothing")).status_code == 404
        assert (await client.post("/queue/jobs", content=b"{")).status_code == 400

        places = []
        while (stuck := await client.post("/queue/jobs", json={"type": "stuck"})).is_success:
            places.append(stuck.headers["location"])
        assert (stuck.status_code, len(places)) in {(429, 2), (429, 3)}
        assert int(stuck.headers["retry-after"]) >= 1
        for each in places:
            await client.post(f"{each}/cancel")
        cancelled = await client.get(places[0], headers={"Prefer": "wait=30"})
        assert cancelled.json()["outcome"] == "cancelled"


@on_each_host
async def test_origin_check_and_token_hold_below_the_mount() -> None:
    queue = make_queue(token="open-sesame", allowed_hosts=["shop.example"])  # noqa: S106
    async with served(queue) as client:
        assert (await client.post("/queue/jobs", json=JOB)).status_code == 401
        assert (await client.get("/queue/health")).status_code == 200
        client.headers["Authorization"] = "Bearer open-sesame"
        assert (await client.post("/queue/jobs", json=JOB)).status_code == 201
        origin = {"Origin": "http://evil.example"}
        assert (await client.post("/queue/jobs", json=JOB, headers=origin)).status_code == 403
        assert len(await queue.page()) == 1


class WithUser:
    """An application whose middleware says by a header who asks."""

    def __init__(self, app: Any) -> None:  # noqa: ANN401
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        """Answer a request."""
        user = dict(scope["headers"]).get(b"x-user", b"nobody").decode()
        USER.set(user)
        await self.app({**scope, "user": user}, receive, send)


USER = contextvars.ContextVar("USER", default="")


@on_each_host
async def test_application_says_in_its_own_loop_who_may_do_what() -> None:
    threads = set()

    def role(scope: Any) -> Access | None:  # noqa: ANN401
        threads.add(threading.get_ident())
        assert scope["user"] == USER.get()
        return {"ann": Access(role=Role.CONTROL, name="ann"), "nobody": None}[scope["user"]]

    queue = make_queue(role=role, ui=True)
    app = mounted(queue)
    async with app.router.lifespan_context(app), client_of(WithUser(app)) as client:
        assert (await client.get("/queue/jobs")).status_code == 401
        assert (await client.get("/queue/health")).status_code == 200
        client.headers["X-User"] = "ann"
        submitted = await client.post("/queue/jobs", json=JOB)
        shown = (await client.get(submitted.headers["location"])).json()
        assert shown["submitted_by"] == "ann"
        assert (await client.get("/queue/ui")).text.startswith("<!doctype html>")
        assert (await client.get("/queue/ui/session")).json()["name"] == "ann"
        client.headers["X-User"] = "mallory"
        with pytest.raises(KeyError, match="mallory"):
            await client.post("/queue/jobs", json=JOB)
        assert len(await queue.page()) == 1
    assert threads == {threading.get_ident()}


@on_each_host
async def test_closed_queue_answers_503_and_says_when_to_try_again() -> None:
    queue = make_queue(grace_period=7.5)
    app = mounted(queue)
    async with client_of(app) as client:
        for _ in range(2):
            for path in ("/queue/jobs", "/queue/health"):
                refused = await client.get(path)
                assert refused.status_code == 503
                assert refused.headers["retry-after"] == "8"
                assert refused.json()["detail"] == "the queue is closed"
            refused = await client.post("/queue/jobs", json=JOB)
            assert refused.json()["detail"] == "the queue is closed; nothing was kept"
            async with app.router.lifespan_context(app):
                assert (await client.get("/queue/health")).status_code == 200


async def test_first_request_gets_its_answer_although_trios_threads_are_all_busy() -> None:
    queue = make_queue()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(queue), base_url="http://localhost")
    threads = trio.to_thread.current_default_thread_limiter()
    async with queue.lifespan(), client:
        busy = [object() for _ in range(int(threads.available_tokens))]
        for each in busy:
            threads.acquire_on_behalf_of_nowait(each)
        try:
            with trio.fail_after(60):
                assert (await client.get("/health")).status_code == 200
        finally:
            for each in busy:
                threads.release_on_behalf_of(each)


def test_first_request_gets_its_answer_although_asyncios_threads_are_all_busy() -> None:
    async def ask() -> int:
        queue = make_queue()
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        over = threading.Event()
        busy = asyncio.create_task(asyncio.to_thread(over.wait))
        try:
            async with queue.lifespan(), asyncio.timeout(10):
                answer = await client_of(queue).get("/health")
        finally:
            over.set()
            await busy
        return answer.status_code

    assert asyncio.run(ask()) == 200


@on_each_host
async def test_client_that_disconnects_in_its_wait_leaves_nothing_behind() -> None:
    queue = make_queue(max_waiters=1)
    async with served(queue) as client:
        job = await queue.submit("stuck")
        for _ in range(3):
            received: list[Any] = [{"type": "http.request"}, {"type": "http.disconnect"}]
            sent: list[Any] = []
            await request(queue, f"/jobs/{job.id}", received, sent, prefer=b"wait=30")
        await queue.cancel(job.id)
        assert (await queue.wait(job.id)).outcome is Outcome.CANCELLED  # it is the one waiter
        assert (await client.get("/queue/health")).status_code == 200


async def request(
    app: Any,  # noqa: ANN401
    path: str,
    received: list[Any],
    sent: list[Any],
    **headers: bytes,
) -> None:
    """A request of a server whose ``receive`` gives these messages."""

    async def receive() -> object:
        return received.pop(0)

    async def send(message: object) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost"), *((k.encode(), v) for k, v in headers.items())],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
    }
    await app(scope, receive, send)


@on_each_host
async def test_queue_is_an_application_of_its_own() -> None:
    """The server's lifespan opens it."""
    queue = make_queue()
    sent: list[Any] = []
    answers: list[httpx.Response] = []

    async def receive() -> object:
        if sent:
            async with client_of(queue) as client:
                answers.append(await client.post("/jobs", json=JOB))
        return {"type": "lifespan.shutdown" if sent else "lifespan.startup"}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    await queue({"type": "lifespan"}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert [each.status_code for each in answers] == [201]


@on_each_host
async def test_quart_has_it_behind_hypercorns_dispatcher() -> None:
    queue = make_queue()
    shop: Any
    if trio.lowlevel.in_trio_task():
        shop = TrioDispatcherMiddleware({"/queue": queue, "": QuartTrio("shop")})
    else:
        shop = AsyncioDispatcherMiddleware({"/queue": queue, "": Quart("shop")})
    phases = iter(["startup", "shutdown"])
    started = anyio.Event()
    sent: list[str] = []
    answers: list[httpx.Response] = []

    async def receive() -> object:
        phase = next(phases)
        if phase == "shutdown":
            await started.wait()
            async with client_of(shop) as client:
                answers.append(await client.post("/queue/jobs", json=JOB))
        return {"type": f"lifespan.{phase}"}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])
        started.set()

    await shop({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    [answer] = answers
    assert answer.headers["location"] == f"/queue/jobs/{answer.json()['id']}"


@on_each_host
async def test_start_that_fails_is_the_servers_to_know() -> None:
    queue = JobQueue({"bad": "shop:send"})
    sent: list[Any] = []

    async def receive() -> object:
        return {"type": "lifespan.startup"}

    async def send(message: object) -> None:
        sent.append(message)

    with pytest.raises(HandlerError, match="the function for type 'bad' is not callable"):
        await queue({"type": "lifespan"}, receive, send)

    [message] = sent
    assert message["type"] == "lifespan.startup.failed"
    assert "the function for type 'bad' is not callable" in message["message"]


@on_each_host
async def test_websocket_is_refused() -> None:
    queue = make_queue()
    sent: list[Any] = []

    async def receive() -> object:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        sent.append(message)

    await queue({"type": "websocket", "path": "/jobs"}, receive, send)

    assert sent == [{"type": "websocket.close"}]


@pytest.mark.parametrize(
    ("options", "kind", "complaint"),
    [
        ({"token": "two words"}, ValueError, "the token must be ASCII"),
        ({"token": "one", "role": str}, ValueError, "either token or role"),
        ({"role": fail}, TypeError, "role must be a plain function"),
        ({"max_wait_seconds": -1}, ValueError, "max_wait_seconds must be a number"),
        ({"grace_period": -1}, ValueError, "grace_period must be a number"),
        ({"worker": 3}, TypeError, "got an unexpected keyword argument 'worker'"),
    ],
)
def test_mistake_is_an_error_of_the_import(
    options: Any,  # noqa: ANN401
    kind: type[Exception],
    complaint: str,
) -> None:
    with pytest.raises(kind, match=complaint):
        JobQueue(HANDLERS, **options)
