"""The page below a mount, and roles that the application around it gives."""

import functools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.api.support import SUBMISSION, accept, assert_problem
from tests.api.test_mounted import mount, mounted
from tests.asgi import Client
from trio_jobs import Access, Jobs, Role, TokenTable, open_jobs
from trio_jobs.testing.asgi_client import App, Message

ANN = Access(role=Role.CONTROL, name="Ann Smith")
BOB = Access(role=Role.READ, name="bob")
# What the middleware of the application knows people by.
PEOPLE: dict[str, Role | Access | None] = {
    "ann": ANN,
    "bob": BOB,
    "shop": Role.SUBMIT,
    "nobody": None,
    "roleless": Access(role=None, name="eve"),
}
PAGE = ["/queue/", "/queue/ui", "/queue/ui/app.css", "/queue/ui/app.js", "/queue/ui/session"]


@pytest.fixture
def fast_path() -> None:
    """A mounted API has none."""


def behind_middleware(app: App) -> App:
    """An application whose middleware says by a header who asks."""

    async def middleware(scope: Message, receive: object, send: object) -> None:
        user = dict(scope["headers"]).get(b"x-user", b"nobody").decode()
        await app({**scope, "state": {"user": user}}, receive, send)

    return middleware


def role(scope: Any) -> Role | Access | None:  # noqa: ANN401
    """The role function of most of these tests."""
    return PEOPLE[scope["state"]["user"]]


@asynccontextmanager
async def hosted(
    function: Callable[[Any], object] = role,
    **options: Any,  # noqa: ANN401
) -> AsyncIterator[tuple[Jobs, Client]]:
    async with open_jobs({"email": accept}, workers=1, buffer_size=2) as jobs:
        api = jobs.asgi(role=function, **options)  # type: ignore[arg-type]
        yield jobs, Client(behind_middleware(mount(api)))


async def test_role_of_the_request_decides_by_path_and_method() -> None:
    async with hosted() as (jobs, client):
        job = jobs.submit("email")
        place = f"/queue/jobs/{job.id}"
        await jobs.wait(job.id)
        asked = [
            ("POST", "/queue/jobs", {"ann": 201, "bob": 403, "shop": 201, "nobody": 401}),
            ("GET", "/queue/jobs", {"ann": 200, "bob": 200, "shop": 403, "nobody": 401}),
            ("GET", place, {"ann": 200, "bob": 200, "shop": 200, "nobody": 401}),
            ("GET", "/queue/pool", {"ann": 200, "bob": 200, "shop": 403, "roleless": 401}),
            ("POST", "/queue/pool/intake", {"ann": 400, "bob": 403, "shop": 403, "nobody": 401}),
            ("POST", f"{place}/rerun", {"bob": 403, "shop": 403, "nobody": 401}),
            ("GET", "/queue/nothing", {"ann": 404, "nobody": 401}),
            ("GET", "/queue/health", {"ann": 200, "shop": 200, "nobody": 200, "roleless": 200}),
        ]
        for method, path, statuses in asked:
            for user, status in statuses.items():
                body = SUBMISSION if path == "/queue/jobs" and method == "POST" else b""
                answer = await client.request(method, path, body=body, headers={"x-user": user})
                assert answer.status == status, (method, path, user)
                if status in (401, 403):
                    assert_problem(answer, status)
                    assert answer.headers["www-authenticate"] == 'Application realm="trio-jobs"'
        refused = (await client.post("/queue/pool/intake", x_user="bob")).json()
        assert refused["roles"] == ["control"]
        assert refused["detail"] == "this needs the role control, the application gives read"
        assert len(jobs.page()) == 3


async def test_names_are_in_the_log_and_in_jobs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="trio_jobs")
    async with hosted() as (_jobs, client):
        submitted = await client.post("/queue/jobs", SUBMISSION, x_user="ann")
        shown = await client.get(submitted.headers["location"], x_user="ann")
        assert shown.json()["submitted_by"] == "Ann Smith"
        body = b'{"open": false}'
        assert (await client.post("/queue/pool/intake", body, x_user="ann")).status == 200
        assert (await client.post("/queue/pool/intake", body, x_user="bob")).status == 403

    actions = [vars(each) for each in caplog.records if each.getMessage() == "operator_action"]
    assert [(each["action"], each["by"]) for each in actions] == [("pause_intake", "Ann Smith")]


async def test_read_sees_no_payloads_unless_it_may() -> None:
    for payloads, withheld in (("control", True), ("read", None)):
        async with hosted(payloads=payloads) as (jobs, client):
            place = f"/queue/jobs/{jobs.submit('email').id}"
            shown = (await client.get(place, x_user="bob")).json()
            assert (shown.get("withheld"), "payload" not in shown) == (withheld, bool(withheld))
            assert "payload" in (await client.get(place, x_user="ann")).json()


async def test_function_is_called_once_for_each_request_that_no_foreign_page_makes() -> None:
    paths = []

    def note(scope: Any) -> Role:  # noqa: ANN401
        paths.append((scope["method"], scope["path"]))
        return Role.CONTROL

    async with hosted(note) as (_jobs, client):
        await client.get("/queue/jobs?limit=1")
        await client.get("/queue/health")
        foreign = await client.post("/queue/jobs", SUBMISSION, origin="http://evil.example")
        assert foreign.status == 403

    assert paths == [("GET", "/queue/jobs"), ("GET", "/queue/health")]


async def test_function_that_raises_lets_nobody_in() -> None:
    async with hosted() as (jobs, client):
        for path in ("/queue/jobs", "/queue/health"):
            with pytest.raises(KeyError, match="mallory"):
                await client.post(path, SUBMISSION, x_user="mallory")
        assert jobs.page() == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("read", TypeError),
        ("control", TypeError),
        (True, TypeError),
        (Access(role="read"), TypeError),  # type: ignore[arg-type]
        (Access(role=Role.READ, name=b"bob"), TypeError),  # type: ignore[arg-type]
        (Access(role=Role.READ, name=""), ValueError),
        (Access(role=Role.READ, name="two\nlines"), ValueError),
        (Access(role=Role.READ, name="\ud800"), ValueError),
        (Access(role=Role.READ, name="a" * 255), ValueError),
    ],
)
async def test_function_that_returns_something_else_lets_nobody_in(
    answer: object, error: type[Exception]
) -> None:
    async with hosted(lambda _scope: answer) as (_jobs, client):
        with pytest.raises(error, match="role"):
            await client.get("/queue/jobs")


async def test_function_may_look_tokens_up() -> None:
    table = TokenTable.of(["read look-only grafana"])

    def by_token(scope: Any) -> Access | None:  # noqa: ANN401
        fields = dict(scope["headers"])
        return table.find(fields.get(b"authorization", b"").removeprefix(b"Bearer "))

    async with hosted(by_token, ui=True) as (_jobs, client):
        shown = await client.get("/queue/ui/session", authorization="Bearer look-only")
        assert shown.json() == {"role": "read", "name": "grafana", "session": False}
        assert (await client.get("/queue/pool", authorization="Bearer no")).status == 401


async def by_database(_scope: object) -> Role:
    return Role.READ


class ByDatabase:
    """An object that is called as an async function."""

    async def __call__(self, _scope: object) -> Role:
        return Role.READ


async def test_what_cannot_be_meant_is_refused() -> None:
    async with open_jobs({"email": accept}) as jobs:
        for function in (by_database, functools.partial(by_database), ByDatabase(), "read"):
            with pytest.raises(TypeError, match="role must be a plain function"):
                jobs.asgi(role=function)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="either token or role"):
            jobs.asgi(role=role, token="sesame")  # noqa: S106 (no secret)
        with pytest.raises(ValueError, match="nobody can sign in on the page"):
            jobs.asgi(ui=True, token="sesame")  # noqa: S106 (no secret)


async def test_page_is_there_if_it_is_asked_for() -> None:
    async with mounted(ui=True) as (_jobs, client):
        assert (await client.get("/queue/")).headers["location"] == "ui"
        page = await client.get("/queue/ui")
        assert page.headers["content-type"].startswith("text/html")
        assert b'src="ui/app.js"' in page.body
        shown = await client.get("/queue/ui/session")
        assert shown.json() == {"role": "control", "name": None, "session": False}
        for method in ("POST", "DELETE"):
            refused = await client.request(method, "/queue/ui/session", json={"token": "x"})
            assert_problem(refused, 405)
        assert_problem(await client.get("/queue/events"), 404)  # the page asks for /pool then
        assert "totals" not in (await client.get("/queue/pool")).json()
    for options in ({}, {"ui": False}):
        async with mounted(**options) as (_jobs, client):
            for path in PAGE:
                assert_problem(await client.get(path), 404)


async def test_application_decides_who_gets_the_page() -> None:
    async with hosted(ui=True) as (_jobs, client):
        for path in PAGE:
            for user, statuses in {"ann": {200, 303}, "bob": {200, 303}}.items():
                assert (await client.get(path, x_user=user)).status in statuses
            assert_problem(await client.get(path, x_user="shop"), 403)
            assert_problem(await client.get(path, x_user="nobody"), 401)
        shown = await client.get("/queue/ui/session", x_user="ann")
        assert shown.json() == {"role": "control", "name": "Ann Smith", "session": False}
        for user in ("ann", "bob"):
            for method in ("POST", "DELETE"):
                refused = await client.request(
                    method, "/queue/ui/session", headers={"x-user": user}
                )
                assert_problem(refused, 405)
