"""Who may do what: each route of the application, for each role, under each of its names."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quart import request

from tests.api.support import Api, accept, assert_problem
from tests.asgi import Client
from tests.proof.share import few_or_many, others
from tests.server.serving import Fields, Served, served
from tests.support import Access, AccessControl, Role, TokenTable
from trio_jobs import open_jobs
from trio_jobs.server.access_middleware import AccessMiddleware
from trio_jobs.server.roles import ALL, CONTROLLERS, OPEN, READERS, SUBMITTERS, Roles, roles_for

ID = "01936d3c-0000-7000-8000-00000000abcd"
TOKENS = TokenTable.of(["submit s-token", "read r-token grafana", "control c-token ann"])
HEADERS: dict[Role | None, str] = {
    None: "",
    Role.SUBMIT: "Bearer s-token",
    Role.READ: "Bearer r-token",
    Role.CONTROL: "Bearer c-token",
}

# A route that is not here fails the first test: decide who may use it. Some routes are optional.
DECIDED: dict[str, Roles] = {
    "DELETE /jobs/<uuid:job_id>": CONTROLLERS,
    "DELETE /ui/session": OPEN,
    "GET /": OPEN,
    "GET /events": READERS,
    "GET /health": OPEN,  # by the setting of the server, not by `roles_for`
    "GET /health/ready": OPEN,
    "GET /jobs": READERS,
    "GET /jobs/<uuid:job_id>": ALL,
    "GET /jobs/counts": READERS,
    "GET /metrics": READERS,
    "GET /openapi.json": ALL,
    "GET /pool": READERS,
    "GET /ui": OPEN,
    "GET /ui/app.css": OPEN,
    "GET /ui/app.js": OPEN,
    "GET /ui/icon.svg": OPEN,
    "GET /ui/session": OPEN,
    "POST /jobs": SUBMITTERS,
    "POST /jobs/<uuid:job_id>/cancel": SUBMITTERS,
    "POST /jobs/<uuid:job_id>/rerun": CONTROLLERS,
    "POST /jobs/<uuid:job_id>/run-now": CONTROLLERS,
    "POST /jobs/batch": SUBMITTERS,
    "POST /jobs/cancel": CONTROLLERS,
    "POST /jobs/pipe": SUBMITTERS,
    "POST /jobs/rerun": CONTROLLERS,
    "POST /jobs/stream": SUBMITTERS,
    "POST /pool/intake": CONTROLLERS,
    "POST /pool/pause": CONTROLLERS,
    "POST /pool/resume": CONTROLLERS,
    "POST /pool/workers": CONTROLLERS,
    "POST /ui/session": OPEN,
}


@pytest.fixture
def fast_path() -> None:
    """The server decides the way."""


def decided(method: str, rule: str) -> Roles:
    """Who may use a method of a route."""
    if method == "OPTIONS":
        return ALL
    return DECIDED[f"{'GET' if method == 'HEAD' else method} {rule}"]


def routes() -> Iterator[tuple[str, str]]:
    """Each method and rule of the application."""
    for rule in Api().app.url_map.iter_rules():
        for method in rule.methods or ():
            yield method, rule.rule


async def test_each_route_is_decided() -> None:
    found = {f"{method} {rule}" for method, rule in routes()}

    assert {each for each in found if not each.startswith(("HEAD", "OPTIONS"))} <= DECIDED.keys()
    for method, rule in routes():
        if not rule.startswith("/health"):
            path = rule.replace("<uuid:job_id>", ID)
            assert roles_for(method, path) == decided(method, rule), (method, rule)


async def test_the_document_names_the_roles_of_each_operation() -> None:
    document = (await Api().client.get("/openapi.json")).json()

    for path, operations in document["paths"].items():
        for method in operations.keys() & {"get", "post", "put", "patch", "delete"}:
            needs = operations[method].get("security", document["security"])
            roles = decided(method.upper(), path.replace("{id}", "<uuid:job_id>"))
            wanted = [{}, *({"token": [role]} for role in Role if role in roles)]
            assert needs == ([] if roles == OPEN else wanted), (method, path)


@pytest.mark.parametrize(
    ("method", "path", "roles"),
    [
        ("GET", "/no/such/path", READERS),
        ("POST", "/no/such/path", CONTROLLERS),
        ("PUT", "/jobs", CONTROLLERS),
        ("PATCH", f"/jobs/{ID}", CONTROLLERS),
        ("BREW", "/jobs", CONTROLLERS),
        ("TRACE", "/jobs", CONTROLLERS),
        ("OPTIONS", "*", ALL),
        ("GET", "/ui", OPEN),
        ("POST", "/ui", CONTROLLERS),
        ("GET", "/ui/", READERS),
        ("GET", "/ui/session", OPEN),
        ("POST", "/ui/session", OPEN),
        ("DELETE", "/ui/session", OPEN),
        ("GET", "/ui/session/", READERS),
        ("GET", "/events", READERS),
        ("POST", "/pool/intake", CONTROLLERS),
        ("GET", f"/jobs/{ID}/cancel", READERS),
        ("POST", f"/jobs/{ID}", CONTROLLERS),
        ("GET", f"/jobs/{ID.upper()}", ALL),
        ("GET", f"/jobs/{ID}\n", READERS),
        ("GET", f"//jobs/{ID}", READERS),
        ("GET", f"/jobs/{ID}/", READERS),
        ("POST", "//jobs", CONTROLLERS),
        ("POST", "/jobs/", CONTROLLERS),
    ],
)
def test_what_is_no_route_has_the_strictest_decision_of_its_method(
    method: str, path: str, roles: Roles
) -> None:
    assert roles_for(method, path) == roles


@asynccontextmanager
async def running(mount: str) -> AsyncIterator[tuple[Served, Client]]:
    """The API behind the server with the fast path, and mounted behind another one."""
    async with (
        open_jobs({"default": accept}, workers=1) as jobs,
        served(Api().both_ways, tokens=TOKENS, health_path="/health") as server,
    ):
        app = jobs.asgi(token=TOKENS)

        async def host(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
            await app({**scope, "root_path": mount, "server": ("test", 80)}, receive, send)

        yield server, Client(host)


async def ask(
    server: Served, method: str, target: str, role: Role | None, body: bytes = b""
) -> int:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    if role is not None:
        lines.append(f"Authorization: {HEADERS[role]}")
    client = await server.connect("\r\n".join([*lines, "", ""]).encode() + body)
    answer = await client.receive_answer(head_only=method == "HEAD")
    client.close()
    return answer.status


async def test_each_role_gets_through_to_its_routes_alone_on_both_ways() -> None:
    async with running("/queue") as (server, client):
        for method, rule in sorted(set(routes())):
            if rule == "/ui/session":
                continue  # open to all, it refuses by itself: `test_sessions.py`
            path = rule.replace("<uuid:job_id>", ID)
            for role, header in HEADERS.items():
                refusal = 401 if role is None else 403
                wanted = role in decided(method, rule)
                status = await ask(server, method, path, role)
                headers = {"Authorization": header} if header else {}
                answer = await client.request(method, f"/queue{path}", headers=headers)
                for got in (status, answer.status):
                    assert (got != refusal) is wanted, (method, rule, role, got)
                if answer.status == 403 and method != "HEAD":
                    problem = assert_problem(answer, 403)
                    assert problem["roles"] == sorted(r for r in decided(method, rule) if r)
                    assert " or ".join(problem["roles"]) in problem["detail"]
                    assert "insufficient_scope" in answer.headers["www-authenticate"]


async def test_all_tokens_share_the_idempotency_keys() -> None:
    async with running("/queue") as (_, client):
        first, second = [
            await client.request(
                "POST",
                "/queue/jobs",
                body=b'{"type":"x"}',
                headers={"Authorization": f"{HEADERS[role]}", "Idempotency-Key": "order-1"},
            )
            for role in (Role.SUBMIT, Role.CONTROL)
        ]

    assert first.status == 201
    assert second.body == first.body
    assert second.headers["idempotent-replayed"] == "true"


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"]
PATHS = sorted({each.partition(" ")[2].replace("<uuid:job_id>", ID) for each in DECIDED})
PATHS += ["/ui", "/ui/session"]


@st.composite
def targets(draw: st.DrawFn) -> str:
    """The path of a route, or one that looks like it to some layer."""
    path = draw(st.sampled_from(PATHS))
    for trick in draw(st.lists(st.sampled_from("/#%.;?AJ"), max_size=2)):
        place = draw(st.integers(1, len(path)))
        if trick == "/":
            path = path[:place] + draw(st.sampled_from(["/", "//", "/./", "/x/../"])) + path[place:]
        elif trick == "#":
            path = draw(st.sampled_from(["/", "/.", "//", "/%2f", "/health/..", "/ui"])) + path
        elif trick == "%":
            path = path[: place - 1] + quote(path[place - 1 : place], safe="") + path[place:]
            path = path[: place - 1] + f"%{ord(path[place - 1]):02x}" + path[place:]
        elif trick == "A":
            path = f"http://{draw(st.sampled_from(['localhost', 'localhost:80']))}{path}"
            break
        elif trick == "J":
            path = path[: place - 1] + path[place - 1 :].swapcase()
        else:
            path += trick + draw(st.sampled_from(["", "/", "x", "=1", "/jobs"]))
    return path


@dataclass
class Reached:
    """An API that notes which routes are reached, by whom."""

    api: Api = field(default_factory=Api)
    routes: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        async def note() -> None:
            if request.url_rule is not None:
                self.routes.append((request.method, request.url_rule.rule))

        self.api.app.before_request_funcs[None].insert(0, note)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        await self.api.app(scope, receive, send)

    def answer_now(
        self, method: str, target: bytes, fields: Fields, body: bytes, access: Access
    ) -> object:
        answer = self.api.both_ways.answer_now(method, target, fields, body, access)
        if answer is not None:
            self.routes.append((method, "/jobs" if method == "POST" else "/jobs/<uuid:job_id>"))
        return answer


REQUESTS = st.lists(
    st.tuples(st.sampled_from(METHODS), targets(), st.sampled_from([None, *Role])),
    min_size=5,
    max_size=25,
)


@few_or_many(16, 60)
def test_no_trick_with_a_path_gets_a_role_to_a_route_of_another(examples: int) -> None:
    @others
    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
    @given(REQUESTS)
    def check(requests: list[tuple[str, str, Role | None]]) -> None:
        trio.run(main, requests)

    async def main(requests: list[tuple[str, str, Role | None]]) -> None:
        app = Reached()
        async with served(app, tokens=TOKENS, health_path="/health") as server:
            for method, target, role in requests:
                app.routes.clear()
                await ask(server, method, target, role, b"{}")  # no pool runs: no job
                for reached in app.routes:
                    assert role in decided(*reached), (method, target, role, reached)

    check()


ROOTS = ["", "/", "/queue", "/queue/", "/jobs", "/health", "/ui", "/jobs/x"]


@few_or_many(16, 100)
def test_no_mount_gets_a_role_to_a_route_of_another(examples: int) -> None:
    @others
    @settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])
    @given(REQUESTS, st.sampled_from(ROOTS))
    def check(requests: list[tuple[str, str, Role | None]], root: str) -> None:
        trio.run(main, requests, root)

    async def main(requests: list[tuple[str, str, Role | None]], root: str) -> None:
        app = Reached()
        guarded = AccessMiddleware(app, AccessControl(tokens=TOKENS, health_path="/health"))

        async def host(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
            await guarded({**scope, "root_path": root}, receive, send)

        client = Client(host)
        for method, target, role in requests:
            for path in (target, root + target, root.rstrip("/") + target):
                app.routes.clear()
                headers = {} if role is None else {"Authorization": HEADERS[role]}
                await client.request(method, path, body=b"{}", headers=headers)
                for reached in app.routes:
                    assert role in decided(*reached), (method, path, role, reached)

    check()


async def test_the_routes_are_reached_where_the_role_may_use_them() -> None:
    app = Reached()
    async with served(app, tokens=TOKENS, health_path="/health") as server:
        app.routes.clear()  # of the warm-up
        for target in (f"http://localhost/jobs/{ID}", f"/jobs/{ID.upper()}", f"/job%73/{ID}?"):
            await ask(server, "GET", target, Role.SUBMIT)

    assert app.routes == [("GET", "/jobs/<uuid:job_id>")] * 3
