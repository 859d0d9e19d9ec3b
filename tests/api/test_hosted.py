"""Our routes in an application of somebody else's."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from quart import Response, redirect, request
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioRequest
from trio.testing import MockClock

from tests.api.support import SUBMISSION, accept, assert_problem
from tests.asgi import Client
from trio_jobs import Jobs, open_jobs
from trio_jobs.testing.asgi_client import App, Message


class HostRequest(TrioRequest):
    """A request as the host likes it."""

    @property
    def visitor(self) -> str:
        """Who asks."""
        return self.headers.get("X-Visitor", "nobody")


def make_host() -> QuartTrio:
    """An application with routes, an error handler and a hook of its own."""
    app = QuartTrio(__name__)
    app.request_class = HostRequest

    @app.before_request
    async def keep_strangers_out() -> Response | None:
        if request.visitor == "stranger":  # type: ignore[attr-defined]
            return Response("who are you?", 401)
        if request.visitor == "guest":  # type: ignore[attr-defined]
            return redirect("/login")  # type: ignore[return-value]
        return None

    @app.post("/echo")
    async def echo() -> str | bytes:
        return await request.get_data()

    @app.get("/fail")
    async def fail() -> str:
        raise ValueError

    @app.errorhandler(404)
    async def not_found(_error: Exception) -> tuple[str, int]:
        return "the host has no such page", 404

    @app.errorhandler(500)
    async def broken(_error: Exception) -> tuple[str, int]:
        return "the host is broken", 500

    @app.errorhandler(409)
    async def conflict(_error: Exception) -> tuple[str, int]:
        return "the host has a conflict", 409

    @app.errorhandler(Exception)
    async def anything(_error: Exception) -> tuple[str, int]:
        return "the host is at a loss", 500

    return app


@asynccontextmanager
async def hosted(prefix: str = "/queue") -> AsyncIterator[tuple[Jobs, Client]]:
    """A pool whose routes are in an application."""
    app = make_host()
    async with open_jobs({"email": accept}, workers=1, buffer_size=2) as jobs:
        jobs.add_routes(app, prefix=prefix)
        yield jobs, Client(app)


@pytest.mark.parametrize("path", ["//queue/jobs", "///queue/health", "/queue//jobs"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_more_slashes_than_one_are_404(method: str, path: str) -> None:
    async with hosted() as (_, client):
        assert_problem(await client.request(method, path, body=SUBMISSION), 404)


async def test_cache_hears_of_ours_alone_and_a_hook_knows_better() -> None:
    app = make_host()

    @app.after_request
    async def name_a_time(response: Response) -> Response:
        if request.path.endswith("/ready"):
            response.headers["Cache-Control"] = "max-age=1"
        return response

    async with open_jobs({"email": accept}, workers=1) as jobs:
        jobs.add_routes(app, prefix="/queue")
        client = Client(app)

        assert (await client.get("/queue/jobs")).headers["cache-control"] == "no-store"
        assert (await client.get("/queue/none")).headers["cache-control"] == "no-store"
        assert (await client.get("/queue/health/ready")).headers["cache-control"] == "max-age=1"
        assert "cache-control" not in (await client.post("/echo", b"hello")).headers


async def test_options_are_answered_below_the_prefix() -> None:
    async with hosted() as (_, client):
        answer = await client.request("OPTIONS", "/queue/jobs")

        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"


async def test_routes_work_below_the_prefix() -> None:
    async with hosted() as (jobs, client):
        answer = await client.post("/queue/jobs", SUBMISSION)
        assert answer.status == 201
        assert answer.headers["location"] == f"/queue/jobs/{answer.json()['id']}"

        answer = await client.get(answer.headers["location"], prefer="wait=5")

        assert answer.json()["outcome"] == "succeeded"
        assert (await client.get("/queue/health")).json() == {"status": "ok"}
        assert (await client.get("/queue/health/ready")).json()["workers"] == 1
        assert len(jobs.page()) == 1
        assert (await client.get("/jobs")).status == 404


async def test_pages_link_to_each_other_below_the_prefix() -> None:
    async with hosted() as (jobs, client):
        first = [jobs.submit("email"), jobs.submit("email")][0]

        answer = await client.get("/queue/jobs?limit=1")

        assert answer.headers["link"] == (f'</queue/jobs?limit=1&after={first.id}>; rel="next"')


async def test_query_parameters_are_refused_below_the_prefix_alone() -> None:
    async with hosted() as (_jobs, client):
        assert_problem(await client.get("/queue/health?x=1"), 400)
        assert_problem(await client.get("/queue/jobs?x=1"), 400)
        assert (await client.get("/queue/jobs?limit=1")).status == 200
        assert (await client.post("/echo?x=1", b"hello")).body == b"hello"


async def test_paths_in_answers_have_the_root_path() -> None:
    app = QuartTrio(__name__)
    async with open_jobs({"email": accept}, workers=1) as jobs:
        jobs.add_routes(app, prefix="/queue")
        below = Client(with_root_path("/shop", app))
        first = (await below.post("/queue/jobs", SUBMISSION)).headers
        jobs.submit("email")
        page = (await below.get("/queue/jobs?limit=1")).headers
        document = (await below.get("/queue/openapi.json")).json()

        [job, _] = jobs.page()
        assert first["location"] == f"/shop/queue/jobs/{job.id}"
        assert page["link"] == f'</shop/queue/jobs?limit=1&after={job.id}>; rel="next"'
        assert document["servers"] == [{"url": "/shop/queue"}]


def with_root_path(root: str, app: App) -> App:
    """The application as behind something that has its own place in the paths."""

    async def mounted(scope: Message, receive: object, send: object) -> None:
        await app({**scope, "root_path": root, "path": root + scope["path"]}, receive, send)

    return mounted


async def test_openapi_document_says_where_the_routes_are() -> None:
    async with hosted() as (_jobs, client):
        document = (await client.get("/queue/openapi.json")).json()

        assert document["servers"] == [{"url": "/queue"}]
        assert "/jobs/{id}" in document["paths"]


async def test_stream_waits_for_room_below_the_prefix() -> None:
    async with hosted() as (_jobs, client):
        answer = await client.post("/queue/jobs/stream", [SUBMISSION + b"\n"] * 30)

        assert answer.status == 201
        assert answer.json() == {"accepted": 30}


async def test_our_errors_have_our_form() -> None:
    async with hosted() as (_jobs, client):
        assert_problem(await client.get("/queue/nothing"), 404)
        assert_problem(await client.get("/queue"), 404)
        assert_problem(await client.get("/queue/jobs/"), 404)
        assert_problem(await client.post("/queue//jobs", SUBMISSION), 404)
        assert_problem(await client.post("/queue/jobs", b"{"), 400)
        assert_problem(await client.get("/queue/jobs/01a210b3-04e9-754c-ab1f-ca608eb6ab87"), 404)
        answer = await client.request("PUT", "/queue/jobs")
        assert_problem(answer, 405)
        assert set(answer.headers["allow"].split(", ")) >= {"GET", "POST"}


async def test_bug_in_our_routes_has_our_form_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError

    async with hosted() as (_jobs, client):
        monkeypatch.setattr("trio_jobs.stores.memory.MemoryStore.page", broken)

        assert_problem(await client.get("/queue/jobs?limit=1"), 500)

    [record] = [record for record in caplog.records if record.exc_info]
    assert record.message == "request_failed"


async def test_routes_of_the_host_are_undisturbed() -> None:
    async with hosted() as (_jobs, client):
        assert (await client.post("/echo", [b"a", b"b"])).body == b"ab"
        assert (await client.get("/nothing")).body == b"the host has no such page"
        assert (await client.get("/queues")).body == b"the host has no such page"
        assert (await client.get("/fail")).body == b"the host is at a loss"
        assert (await client.get("/echo")).body == b"the host is at a loss"


async def test_hooks_of_the_host_hold_for_our_routes() -> None:
    async with hosted() as (jobs, client):
        answer = await client.post("/queue/jobs", SUBMISSION, x_visitor="stranger")
        assert (answer.status, answer.body) == (401, b"who are you?")
        assert (await client.get("/queue/nothing", x_visitor="stranger")).status == 401
        answer = await client.get("/queue/jobs", x_visitor="guest")
        assert (answer.status, answer.headers["location"]) == (302, "/login")
        assert jobs.page() == []


async def test_left_block_answers_503_below_the_prefix() -> None:
    async with hosted() as (_jobs, client):
        pass

    answer = await client.post("/queue/jobs", SUBMISSION)

    assert_problem(answer, 503)
    assert answer.headers["retry-after"] == "25"
    assert (await client.get("/queue/jobs")).status == 200


async def test_one_application_has_the_routes_of_two_pools(autojump_clock: MockClock) -> None:
    app = make_host()
    async with (
        open_jobs({"email": accept}) as one,
        open_jobs({"email": accept}) as two,
    ):
        one.add_routes(app, prefix="/one")
        two.add_routes(app, prefix="/two/jobs.v1")
        client = Client(app)
        await client.post("/two/jobs.v1/jobs", SUBMISSION)

        assert (len(one.page()), len(two.page())) == (0, 1)
        assert_problem(await client.get("/one/nothing"), 404)
        assert_problem(await client.get("/two/jobs.v1/nothing"), 404)


@pytest.mark.parametrize("prefix", ["/q/jobs", "/q.jobs", "/q_jobs", "/~Q-1"])
async def test_prefixes_that_look_alike_do_not_get_mixed_up(prefix: str) -> None:
    app = make_host()
    async with open_jobs({"email": accept}) as one, open_jobs({"email": accept}) as two:
        one.add_routes(app, prefix=prefix)
        two.add_routes(app, prefix="/q-jobs")
        for other in {"/q/jobs", "/q.jobs", "/q_jobs", "/~Q-1"} - {prefix}:
            two.add_routes(app, prefix=other)
        client = Client(app)

        answer = await client.post(f"{prefix}/jobs", SUBMISSION)

        assert answer.status == 201
        assert answer.headers["location"] == f"{prefix}/jobs/{one.page()[0].id}"
        assert two.page() == []


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "/", "queue", "/queue/", "//queue", "/a//b", "/./queue", "/queue/.."),
        *("/<x>", "/<path:x>", "/a b", "/queue?", "/queue#", "/%71", "/größe", "/queue\n", "/a\\b"),
    ],
)
async def test_prefix_that_would_not_work_is_refused(prefix: str) -> None:
    complaint = "prefix must be a path such as '/queue' or '/api/v1', of letters, digits and"
    app = make_host()
    async with open_jobs({"email": accept}) as jobs:
        with pytest.raises(ValueError, match=f"^{complaint} .* got ") as caught:
            jobs.add_routes(app, prefix=prefix)
    assert str(caught.value).endswith(repr(prefix))
    assert not app.blueprints


async def test_second_pool_below_the_same_prefix_is_refused() -> None:
    app = make_host()
    async with open_jobs({"email": accept}) as jobs:
        jobs.add_routes(app, prefix="/queue")
        with pytest.raises(ValueError, match=r"^prefix '/queue' has the routes of a pool already$"):
            jobs.add_routes(app, prefix="/queue")

        assert (await Client(app).post("/queue/jobs", SUBMISSION)).status == 201


async def test_client_that_hangs_up_while_it_waits_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    async def never_returns(_payload: object) -> None:
        await trio.sleep_forever()

    app = make_host()
    with trio.move_on_after(10):
        async with open_jobs({"email": never_returns}, max_waiters=1) as jobs:
            jobs.add_routes(app, prefix="/queue")
            job = jobs.submit("email")
            for _ in range(3):
                async with Client(app).open(
                    "GET", f"/queue/jobs/{job.id}", headers={"Prefer": "wait=60"}
                ):
                    await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await jobs.wait(job.id)
            await trio.sleep_forever()
    assert trio.current_time() == 10


# What a host's hook does with the body, which our routes read themselves.
READINGS = {
    "data": lambda: request.get_data(),
    "data, not to be kept": lambda: request.get_data(cache=False),
    "JSON": lambda: request.get_json(force=True, silent=True),
    "form": lambda: request.form,
    "pieces": lambda: read_pieces(),
    "twice": lambda: read_twice(),
}


async def read_pieces() -> bytes:
    return b"".join([piece async for piece in request.body])


async def read_twice() -> object:
    first = await request.get_data()
    assert await request.get_data() == first
    return first


@asynccontextmanager
async def reading(
    when: str,
    read: Callable[[], Awaitable[object]],
    seen: list[object],
    *,
    max_content_length: int | None = None,
) -> AsyncIterator[Client]:
    """A host whose hook reads each body, before our route or after it."""
    app = QuartTrio(__name__)
    app.config["MAX_CONTENT_LENGTH"] = max_content_length

    async def hook(*responses: Response) -> Response | None:
        seen.append(await read())
        return responses[0] if responses else None

    getattr(app, when)(hook)
    async with open_jobs({"email": accept}, workers=1, buffer_size=100) as jobs:
        jobs.add_routes(app, prefix="/queue")
        yield Client(app)


@pytest.mark.parametrize("read", READINGS.values(), ids=READINGS)
async def test_hook_before_our_route_may_read_the_body(
    read: Callable[[], Awaitable[object]],
) -> None:
    seen: list[object] = []
    async with reading("before_request", read, seen) as client:
        with trio.fail_after(5):
            assert (await client.get("/queue/health")).status == 200
            answer = await client.post("/queue/jobs", [SUBMISSION[:5], SUBMISSION[5:]])
            waited = await client.get(answer.headers["location"], prefer="wait=5")
            streamed = await client.post("/queue/jobs/stream", [SUBMISSION + b"\n"] * 30)

    assert answer.status == 201
    assert waited.json()["outcome"] == "succeeded"
    assert streamed.json() == {"accepted": 30}
    assert len(seen) == 4
    if read is READINGS["data"]:
        assert seen == [b"", SUBMISSION, b"", (SUBMISSION + b"\n") * 30]


async def test_hook_after_our_route_may_read_the_body_but_not_a_streams() -> None:
    seen: list[object] = []
    async with reading("after_request", READINGS["data"], seen) as client:
        with trio.fail_after(5):
            assert (await client.get("/queue/health")).status == 200
            assert (await client.post("/queue/jobs", SUBMISSION)).status == 201
            streamed = await client.post("/queue/jobs/stream", SUBMISSION)

    assert streamed.status == 500
    assert seen == [b"", SUBMISSION]


async def test_body_that_is_too_long_for_the_host_is_so_for_its_hooks() -> None:
    read = READINGS["data"]
    async with reading("before_request", read, [], max_content_length=10) as client:
        with trio.fail_after(5):
            assert_problem(await client.post("/queue/jobs", SUBMISSION), 413)


async def test_client_that_leaves_while_a_hook_reads_is_gone() -> None:
    seen: list[object] = []
    async with reading("before_request", READINGS["data"], seen) as client:
        with trio.fail_after(5):
            async with client.open("POST", "/queue/jobs") as exchange:
                await exchange.send(SUBMISSION[:5])
                exchange.stop_sending()
                assert await exchange.head() == 400

    assert seen == []
