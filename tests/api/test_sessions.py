"""The page's sessions: signing in and out, and whose page a session counts for."""

import json
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import Api, assert_problem
from tests.asgi import Answer, Client
from tests.server.serving import served
from tests.support import AccessControl, Sessions, TokenTable
from trio_jobs import LogFormatter
from trio_jobs.api.fast_path import FastPath
from trio_jobs.api.sign_in import SignIn
from trio_jobs.api.ui_headers import UI_HEADERS
from trio_jobs.server.access_middleware import AccessMiddleware

SESSION = "/ui/session"
TOKENS = ("control c-token ann", "read r-token bob", "submit s-token")
OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}
SECONDS = 60


@pytest.fixture
def fast_path() -> None:
    """The server decides the way."""


class Site:
    """An API whose people can sign in.

    Attributes:
        client: Asks it as behind another server.
        access_control: Has the present tokens.
    """

    def __init__(self, *tokens: str, ui: bool = True) -> None:
        self.sessions = Sessions(
            "trio_jobs_80", seconds=SECONDS, secure=False, clock=trio.current_time
        )
        with_sessions = self.sessions if tokens and ui else None
        self.access_control = AccessControl(
            tokens=TokenTable.of(tokens) if tokens else None, sessions=with_sessions
        )
        api = Api()
        sign_in = SignIn(lambda: self.access_control.tokens, self.sessions)
        context = replace(
            api.context,
            sign_in=None if with_sessions is None else sign_in,
            http=replace(api.context.http, ui=ui),
        )
        self.app = FastPath(context, find=api.parts.store.find_nowait)
        self.client = Client(AccessMiddleware(self.app, self.access_control))

    async def sign_in(self, token: str, **headers: str) -> Answer:
        """What a page gets that sends this token."""
        return await self.client.request(
            "POST", SESSION, json={"token": token}, headers={**OWN_PAGE, **headers}
        )

    async def cookie(self, token: str) -> dict[str, str]:
        """The header that a browser sends once this token has signed in."""
        answer = await self.sign_in(token)
        assert answer.status == 200, answer
        return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}

    async def ask(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """What a request with these headers gets; a writing one has a body that its route takes."""
        body = {"POST /jobs": {"type": "email"}, "POST /jobs/rerun": {}}.get(f"{method} {path}")
        text = b"" if body is None else json.dumps(body).encode()
        return await self.client.request(method, path, body=text, headers=headers)


@pytest.fixture
async def site() -> Site:
    return Site(*TOKENS)


async def test_who_signs_in_is_known_until_signing_out(site: Site) -> None:
    before = await site.client.get(SESSION)
    begun = await site.sign_in(" c-token\n")
    cookie = {"Cookie": begun.headers["set-cookie"].partition(";")[0]}
    during = await site.client.request("GET", SESSION, headers=cookie)
    job = await site.ask("POST", "/jobs", cookie | OWN_PAGE)
    ended = await site.client.request("DELETE", SESSION, headers=cookie | OWN_PAGE)

    assert_problem(before, 401)
    assert before.headers["www-authenticate"].startswith("Bearer")
    ann = {"role": "control", "name": "ann", "session": True}
    assert (begun.status, begun.json()) == (200, ann)
    assert (during.status, during.json()) == (200, ann)
    assert job.status == 201
    assert (ended.status, ended.body) == (204, b"")
    assert ended.headers["set-cookie"].startswith("trio_jobs_80=; Max-Age=0; ")


async def test_a_token_in_the_header_is_no_session(site: Site) -> None:
    answer = await site.client.request("GET", SESSION, headers={"Authorization": "Bearer r-token"})

    assert answer.json() == {"role": "read", "name": "bob", "session": False}


async def test_a_session_has_the_role_of_its_token(site: Site) -> None:
    reads, submits = await site.cookie("r-token"), await site.cookie("s-token")

    answers = [
        await site.ask(method, path, cookie | OWN_PAGE)
        for cookie in (reads, submits)
        for method, path in (("GET", "/jobs"), ("POST", "/jobs"), ("POST", "/jobs/rerun"))
    ]

    assert [answer.status for answer in answers] == [200, 403, 403, 403, 201, 403]
    assert "the token has the role read" in answers[1].json()["detail"]


OURS, FOREIGN = "http://test", "http://test:8081"
# Of a browser, per header: whether a request with a session may read, and whether it may write.
SITES = [
    ({"Sec-Fetch-Site": "same-origin"}, True, True),
    ({"Sec-Fetch-Site": "same-origin", "Origin": OURS}, True, True),
    # Typed by the user, or from a bookmark.
    ({"Sec-Fetch-Site": "none"}, True, False),
    # Another port of the host: the browser sends the cookie.
    ({"Sec-Fetch-Site": "same-site"}, False, False),
    ({"Sec-Fetch-Site": "same-site", "Origin": FOREIGN}, False, False),
    ({"Sec-Fetch-Site": "cross-site"}, False, False),
    ({"Sec-Fetch-Site": "cross-site", "Origin": OURS}, False, False),
    ({"Sec-Fetch-Site": ""}, False, False),
    ({"Origin": OURS}, True, True),
    ({"Origin": FOREIGN}, False, False),
    ({"Origin": "null"}, False, False),
    ({"Origin": ""}, False, False),
    # A program that has the cookie.
    ({}, True, False),
]
READS = [("GET", "/jobs"), ("HEAD", "/jobs"), ("GET", "/pool")]
WRITES = [("POST", "/jobs"), ("POST", "/jobs/rerun")]


async def test_a_session_counts_from_the_servers_own_page_alone(site: Site) -> None:
    cookie = await site.cookie("c-token")

    for headers, may_read, may_write in SITES:
        for requests, allowed in ((READS, may_read), (WRITES, may_write)):
            for method, path in requests:
                answer = await site.ask(method, path, cookie | headers)
                wanted = (200, 201) if allowed else (403,)
                assert answer.status in wanted, (headers, method, path, answer)
        shown = await site.client.request("GET", SESSION, headers=cookie | headers)
        assert shown.status == (200 if may_read else 401)
        # The page itself has no data.
        assert (await site.client.request("GET", "/ui", headers=cookie | headers)).status == 200


async def test_nobody_is_signed_in_or_out_by_another_page(site: Site) -> None:
    cookie = await site.cookie("c-token")

    for headers, _, may_write in SITES:
        signed_in = await site.client.request(
            "POST", SESSION, json={"token": "c-token"}, headers=headers
        )
        signed_out = await site.client.request("DELETE", SESSION, headers=cookie | headers)
        statuses = (signed_in.status, signed_out.status)
        assert statuses == ((200, 204) if may_write else (403, 403)), headers
        for answer in (signed_in, signed_out):
            assert ("set-cookie" in answer.headers) is may_write, headers


AUTHORIZATIONS = {
    "Bearer wrong": [401, 401],
    "Basic YTpi": [401, 401],
    "": [401, 401],
    "Bearer r-token": [200, 403],
    "Bearer c-token": [200, 201],
}


async def test_a_request_with_authorization_ignores_cookies(site: Site) -> None:
    cookie = await site.cookie("c-token")

    for authorization, wanted in AUTHORIZATIONS.items():
        # A program needs no page: it shows its token.
        for headers in (OWN_PAGE, {}):
            shown = {**cookie, **headers, "Authorization": authorization}
            statuses = [
                (await site.ask("GET", "/jobs", shown)).status,
                (await site.ask("POST", "/jobs/rerun", shown)).status,
            ]
            assert statuses == wanted, (authorization, headers)


async def test_a_session_ends_with_its_token_and_follows_its_role(site: Site) -> None:
    ann, bob = await site.cookie("c-token"), await site.cookie("r-token")

    site.access_control.tokens = TokenTable.of(["read c-token ann", "control new-token"])
    statuses = [
        (await site.ask(method, path, cookie | OWN_PAGE)).status
        for cookie in (ann, bob)
        for method, path in (("GET", "/jobs"), ("POST", "/jobs/rerun"), ("GET", SESSION))
    ]

    assert statuses == [200, 403, 200, 401, 401, 401]
    # The same token again has the same fingerprint.
    site.access_control.tokens = TokenTable.of(["control r-token carol"])
    shown = await site.client.request("GET", SESSION, headers=bob)
    assert shown.json() == {"role": "control", "name": "carol", "session": True}


async def test_a_session_ends_after_its_time(site: Site, autojump_clock: MockClock) -> None:
    cookie = await site.cookie("c-token")
    await trio.sleep(SECONDS - 1)
    before = await site.ask("GET", "/jobs", cookie)
    await trio.sleep(1)

    after = [await site.ask(method, path, cookie | OWN_PAGE) for method, path in READS + WRITES]

    assert before.status == 200
    assert [answer.status for answer in after] == [401] * len(after)


async def test_a_wrong_token_takes_its_time_and_gives_no_cookie(
    site: Site, autojump_clock: MockClock
) -> None:
    begun = trio.current_time()

    answers = [await site.sign_in(token) for token in ("wrong", "", "c-token x", "\u20ac", "c")]

    for answer in answers:
        assert assert_problem(answer, 401)["detail"] == "the token is not valid"
        assert "set-cookie" not in answer.headers
    assert trio.current_time() - begun == pytest.approx(0.3 * len(answers))
    assert (await site.sign_in("c-token")).status == 200


async def test_five_wrong_tokens_at_a_time_are_waited_for_and_a_right_one_is_never_refused(
    site: Site, autojump_clock: MockClock
) -> None:
    ended: list[tuple[float, int]] = []
    begun = trio.current_time()

    async def guess(token: str) -> Answer:
        answer = await site.sign_in(token)
        ended.append((trio.current_time() - begun, answer.status))
        return answer

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(guess, f"wrong-{n}")
        await wait_all_tasks_blocked()
        more = [await guess(token) for token in ("wrong", "c-token", "wrong")]

    assert [status for at, status in ended if at == 0] == [429, 200, 429]
    assert [status for at, status in ended if at == pytest.approx(0.3)] == [401] * 5
    for answer in more[::2]:
        assert assert_problem(answer, 429)["retry_after"] == 1
        assert answer.headers["retry-after"] == "1"


async def test_a_client_that_disconnects_in_the_delay_frees_its_place(
    site: Site, autojump_clock: MockClock
) -> None:
    sign_in = SignIn(lambda: site.access_control.tokens, site.sessions)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(lambda: sign_in.check("wrong", client="a"))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert (await sign_in.check("c-token", client="a")).name == "ann"


@pytest.fixture
def log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, logger="trio_jobs")
    monkeypatch.setattr(caplog.handler, "formatter", LogFormatter())
    return caplog


def lines_with(log: pytest.LogCaptureFixture, event: str) -> list[str]:
    """The fields of the lines of an event."""
    return [
        line.partition(f" {event} ")[2] for line in log.text.splitlines() if f" {event} " in line
    ]


async def test_failed_sign_ins_have_a_line_a_minute(
    site: Site, autojump_clock: MockClock, log: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        await site.sign_in("wrong-guess")
    await trio.sleep(60)
    await site.sign_in("wrong-guess")

    assert lines_with(log, "login_failed") == [
        "client=127.0.0.1:50000 left_out=0",
        "client=127.0.0.1:50000 left_out=2",
    ]
    assert "wrong-guess" not in log.text


async def test_signing_in_and_out_is_logged_and_no_token_is(
    site: Site, log: pytest.LogCaptureFixture
) -> None:
    cookie = await site.cookie("c-token")
    await site.client.request("DELETE", SESSION, headers=cookie | OWN_PAGE)
    await site.client.request("DELETE", SESSION, headers=OWN_PAGE)  # nobody

    assert lines_with(log, "operator_action") == [
        "action=sign_in by=ann client=127.0.0.1:50000",
        "action=sign_out by=ann client=127.0.0.1:50000",
    ]
    assert "c-token" not in log.text
    assert cookie["Cookie"].partition("=")[2] not in log.text


NO_SIGN_INS = [
    *["", "c-token", "{}", "[]", '{"token": 1}', '{"token": null}', '{"token": "x", "a": 1}'],
    *['{"token": "\\ud800"}', '{"token": "c-token"', '"c-token"', '{"token": "c-token"} x'],
]


async def test_what_is_no_sign_in_is_refused_and_not_quoted(site: Site) -> None:
    for body in NO_SIGN_INS:
        answer = await site.client.request("POST", SESSION, body=body.encode(), headers=OWN_PAGE)
        assert answer.status == 400, body
        assert "c-token" not in answer.body.decode()


async def test_the_body_of_a_sign_in_is_bounded(site: Site, autojump_clock: MockClock) -> None:
    long, right = ({"token": "x" * size} for size in (5_000, 4_000))

    answers = [
        await site.client.request("POST", SESSION, json=body, headers=OWN_PAGE)
        for body in (long, right)
    ]

    assert [answer.status for answer in answers] == [413, 401]


async def test_answers_have_the_headers_of_the_page_and_no_cache_keeps_them(site: Site) -> None:
    cookie = await site.cookie("c-token")
    answers = [
        await site.sign_in("c-token"),
        await site.client.request("GET", SESSION, headers=cookie),
        await site.client.request("DELETE", SESSION, headers=cookie | OWN_PAGE),
    ]

    for answer in answers:
        for name, value in UI_HEADERS.items():
            assert answer.headers[name.lower()] == value
        assert answer.headers["cache-control"] == "no-store"


async def test_without_tokens_everybody_has_control_and_there_is_no_session(
    autojump_clock: MockClock,
) -> None:
    site = Site()
    everybody = {"role": "control", "name": None, "session": False}

    shown, begun = await site.client.get(SESSION), await site.sign_in("anything")
    ended = await site.client.request("DELETE", SESSION, headers=OWN_PAGE)

    assert (shown.status, shown.json()) == (begun.status, begun.json()) == (200, everybody)
    assert ended.status == 204
    assert not {"set-cookie"} & {*shown.headers, *begun.headers, *ended.headers}


async def test_without_the_page_nobody_signs_in(autojump_clock: MockClock) -> None:
    site = Site(*TOKENS, ui=False)

    answers = [await site.client.get(SESSION), await site.sign_in("c-token")]

    assert [answer.status for answer in answers] == [404, 404]


@pytest.fixture
async def command() -> AsyncIterator[Any]:
    """Asks the same site behind the server of the command, with its fast path."""
    site = Site(*TOKENS)
    async with served(
        site.app,
        tokens=site.access_control.tokens,
        sessions=site.sessions,
        allowed_hosts=["test"],
    ) as server:

        async def ask(method: str, path: str, headers: Mapping[str, str], body: bytes) -> Any:  # noqa: ANN401
            lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            client = await server.connect("\r\n".join([*lines, "", ""]).encode() + body)
            answer = await client.receive_answer()
            client.close()
            return answer

        yield ask


async def test_the_fast_path_decides_as_the_others(command: Any) -> None:  # noqa: ANN401
    begun = await command("POST", SESSION, OWN_PAGE, b'{"token":"c-token"}')
    cookie = {"Cookie": begun.headers["set-cookie"].partition(";")[0]}
    body = b'{"type":"email"}'

    for headers, may_read, may_write in SITES:
        posted = await command("POST", "/jobs", cookie | headers, body)
        assert posted.status == (201 if may_write else 403), headers
        listed = await command("GET", "/jobs", cookie | headers, b"")
        assert listed.status == (200 if may_read else 403), headers
    refused = await command("POST", "/jobs", OWN_PAGE, body)
    assert refused.status == 401
