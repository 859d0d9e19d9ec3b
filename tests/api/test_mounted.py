"""The HTTP API of a pool as an application below a mount, and its access control there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from tests.api.support import SUBMISSION, accept, assert_problem
from tests.asgi import Client
from trio_jobs import Jobs, open_jobs
from trio_jobs.testing.asgi_client import App, Message

UNKNOWN = "/queue/jobs/01a210b3-04e9-754c-ab1f-ca608eb6ab87"


def mount(app: App, *, at: str = "/queue", server: tuple[str, int] = ("test", 80)) -> App:
    """A host application with a mount, as every ASGI framework makes it."""

    async def host(scope: Message, receive: object, send: object) -> None:
        await app({**scope, "root_path": at, "server": server}, receive, send)

    return host


@asynccontextmanager
async def mounted(**options: object) -> AsyncIterator[tuple[Jobs, Client]]:
    """A pool whose API is mounted at ``/queue``."""
    async with open_jobs({"email": accept}, workers=1, buffer_size=2) as jobs:
        yield jobs, Client(mount(jobs.asgi(**options)))  # type: ignore[arg-type]


async def test_routes_and_the_paths_in_their_answers_are_below_the_mount() -> None:
    async with mounted() as (jobs, client):
        submitted = await client.post("/queue/jobs", SUBMISSION)
        assert submitted.status == 201
        assert submitted.headers["location"] == f"/queue/jobs/{submitted.json()['id']}"
        waited = await client.get(submitted.headers["location"], prefer="wait=5")
        assert waited.json()["outcome"] == "succeeded"

        jobs.submit("email")
        page = await client.get("/queue/jobs?limit=1")
        first = jobs.page()[0]
        assert page.headers["link"] == f'</queue/jobs?limit=1&after={first.id}>; rel="next"'

        document = (await client.get("/queue/openapi.json")).json()
        assert document["servers"] == [{"url": "/queue"}]
        assert "/jobs/{id}" in document["paths"]
        assert (await client.get("/queue/health/ready")).json()["workers"] == 1


@pytest.mark.parametrize("root", ["/shop/queue", "/shop/queue/", "/a b"])
async def test_mounts_below_mounts_are_in_the_paths_of_answers(root: str) -> None:
    async with open_jobs({"email": accept}, workers=1) as jobs:
        client = Client(mount(jobs.asgi(), at=root))
        below = root.rstrip("/").replace(" ", "%20")

        answer = await client.post(f"{below}/jobs", SUBMISSION)

        assert answer.headers["location"] == f"{below}/jobs/{jobs.page()[0].id}"


async def test_stream_waits_for_room_below_the_mount() -> None:
    async with mounted() as (_jobs, client):
        answer = await client.post("/queue/jobs/stream", [SUBMISSION + b"\n"] * 300)

        assert (answer.status, answer.json()) == (201, {"accepted": 300})


@pytest.mark.parametrize(
    "path",
    ["/queue", "/queue/", "/queue/nothing", "/queue//jobs", "/queuejobs", "//queue/jobs", UNKNOWN],
)
async def test_path_that_is_not_there_is_404_in_the_form_of_all_errors(path: str) -> None:
    async with mounted() as (_jobs, client):
        assert_problem(await client.get(path), 404)


async def test_closed_pool_answers_503_to_submissions_and_goes_on_answering_the_rest() -> None:
    async with mounted() as (jobs, client):
        job = jobs.submit("email")

    answer = await client.post("/queue/jobs", SUBMISSION)

    assert_problem(answer, 503)
    assert answer.headers["retry-after"] == "25"
    assert (await client.get(f"/queue/jobs/{job.id}")).json()["outcome"] == "succeeded"
    assert (await client.get("/queue/health/ready")).status == 503


async def test_client_that_disconnects_while_it_waits_leaves_nothing_behind(
    autojump_clock: MockClock,
) -> None:
    async def never_returns(_payload: object) -> None:
        await trio.sleep_forever()

    with trio.move_on_after(10):
        async with open_jobs({"email": never_returns}, max_waiters=1) as jobs:
            client = Client(mount(jobs.asgi()))
            job = jobs.submit("email")
            for _ in range(3):
                headers = {"Prefer": "wait=60"}
                async with client.open("GET", f"/queue/jobs/{job.id}", headers=headers):
                    await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await jobs.wait(job.id)
            await trio.sleep_forever()
    assert trio.current_time() == 10


async def test_page_of_another_origin_may_not_write() -> None:
    async with mounted() as (jobs, client):
        for headers in ({"origin": "http://evil.example"}, {"sec_fetch_site": "cross-site"}):
            answer = await client.post("/queue/jobs", SUBMISSION, **headers)

            assert "pages of another origin" in assert_problem(answer, 403)["detail"]
        assert jobs.page() == []
        assert (await client.get("/queue/jobs", origin="http://evil.example")).status == 200
        assert (await client.post("/queue/jobs", SUBMISSION, origin="http://test")).status == 201


async def test_token_is_asked_for_everywhere_but_for_health() -> None:
    async with mounted(token="sesame") as (_jobs, client):  # noqa: S106 (no secret)
        refused = await client.post("/queue/jobs", SUBMISSION)
        assert_problem(refused, 401)
        assert refused.headers["www-authenticate"].startswith("Bearer")
        assert_problem(await client.get("/queue/nothing", authorization="Bearer no"), 401)
        taken = await client.post("/queue/jobs", SUBMISSION, authorization="Bearer sesame")
        assert taken.status == 201
        assert (await client.get("/queue/health/ready")).status == 200


async def test_token_that_no_client_could_send_is_refused() -> None:
    async with open_jobs({"email": accept}) as jobs:
        with pytest.raises(ValueError, match="the token must be ASCII"):
            jobs.asgi(token="two words")  # noqa: S106 (no secret)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_foreign_host_name_is_refused_on_a_loopback_address(address: str) -> None:
    async with open_jobs({"email": accept}) as jobs:
        client = Client(mount(jobs.asgi(), server=(address, 80)))
        assert_problem(await client.get("/queue/jobs", host="evil.example"), 403)
        assert (await client.get("/queue/jobs", host="localhost:80")).status == 200
        allowed = Client(mount(jobs.asgi(allowed_hosts=["shop.example"]), server=(address, 80)))
        assert (await allowed.get("/queue/jobs", host="shop.example")).status == 200
