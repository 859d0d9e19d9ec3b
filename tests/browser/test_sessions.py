"""Signing in on the page, and what other pages can do with a session: in a browser that has one."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.browser.conftest import Start
from tests.browser.support import CONFIG, Pages, Server, expect
from trio_jobs.shutdown.signals import RELOADING

if TYPE_CHECKING:
    from playwright.sync_api import Page

CERTIFICATES = Path(__file__).parents[1] / "server"
TOKENS = "control c-token ann\nread r-token bob\nsubmit s-token\n"
CONTROL = {"Authorization": "Bearer c-token"}
OTHER = {"Authorization": "Bearer other-token"}


def with_tokens(*lines: str) -> str:
    """The configuration of a server with the token file ``tokens``."""
    settings = "\n".join(['token_file = "tokens"', "access_log = true", *lines])
    return f"[http]\n{settings}\n{CONFIG}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The server's folder, with its tokens."""
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "tokens").write_text(TOKENS)
    return folder


@pytest.fixture
def server(folder: Path, start: Start) -> Server:
    """A server with tokens; its client has control."""
    return start(config=with_tokens(), headers=CONTROL)


@pytest.fixture
def visits(pages: Pages) -> Pages:
    """Opens pages whose browser is refused things, and says so."""
    pages.accepted += ["401", "403"]
    return pages


def by_name(server: Server) -> str:
    """The server's address by a name: that a page of another port has, too."""
    return server.url.replace("127.0.0.1", "localhost")


def sign_in(page: "Page", token: str = "c-token") -> None:  # noqa: S107
    """Sign in on an open page."""
    expect(page.locator("#login")).to_be_visible()
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()


def test_signed_in_people_stay_so_until_they_sign_out(server: Server, visits: Pages) -> None:
    page = visits.open(server)
    sign_in(page)

    expect(page.locator("#who")).to_have_text("ann, control")
    expect(page.locator("#status")).to_have_text("Ready")
    [cookie] = page.context.cookies()
    assert cookie["name"] == f"trio_jobs_{server.url.rpartition(':')[2]}"
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Strict", False)
    assert page.evaluate("document.cookie") == ""
    kept = page.evaluate("JSON.stringify([localStorage, sessionStorage])")
    assert "c-token" not in kept + page.content() + page.url

    page.reload()
    expect(page.locator("#who")).to_have_text("ann, control")
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#login")).to_be_visible()
    for cookie in page.context.cookies():  # the browser has had it a little later
        page.wait_for_timeout(max(0.0, cookie["expires"] - time.time()) * 1_000 + 1)
    assert page.context.cookies() == []
    page.reload()
    expect(page.locator("#login")).to_be_visible()


# Fetches as the signed-in page itself does; the status.
FETCH = """async ([method, path, body]) => {
    const answer = await fetch(path, {method, body: body && JSON.stringify(body)});
    return answer.status;
}"""


def test_reader_changes_nothing(server: Server, visits: Pages) -> None:
    page = visits.open(server)
    sign_in(page, "r-token")
    job_id = server.submit("refuse", "why", wait=True)

    expect(page.locator("#who")).to_have_text("bob, read")
    expect(page.locator("#jobs tr")).to_have_count(1)
    expect(page.get_by_role("button", name="Rerun")).to_have_count(0)
    statuses = [
        page.evaluate(FETCH, request)
        for request in (
            ["GET", f"jobs/{job_id}", None],
            ["POST", f"jobs/{job_id}/rerun", None],
            ["POST", "jobs", {"type": "quick"}],
            ["DELETE", f"jobs/{job_id}", None],
        )
    ]
    assert statuses == [200, 403, 403, 403]


def test_session_ends_after_its_time(folder: Path, start: Start, visits: Pages) -> None:
    server = start(config=with_tokens("session_seconds = 1"), headers=CONTROL)
    page = visits.open(server)

    sign_in(page)

    # In between the page was there; by itself it comes back to the form.
    server.wait_for_line("operator_action", "action=sign_in", "by=ann")
    expect(page.locator("#main")).to_be_hidden()
    expect(page.locator("#login")).to_be_visible()
    for cookie in page.context.cookies():  # the browser has had it a little later
        page.wait_for_timeout(max(0.0, cookie["expires"] - time.time()) * 1_000 + 1)
    assert page.context.cookies() == []


def test_session_ends_with_its_token_while_the_page_is_open(
    server: Server, folder: Path, visits: Pages
) -> None:
    stays, goes = visits.open(server), visits.open(server)
    sign_in(stays, "r-token")
    sign_in(goes)
    for page in (stays, goes):
        expect(page.locator("#status")).to_have_text("Ready")

    (folder / "tokens").write_text("read r-token bob\ncontrol other-token ann\n")
    server.send(RELOADING)

    expect(goes.locator("#login")).to_be_visible()
    expect(stays.locator("#status")).to_have_text("Ready")
    server.client.headers.update(OTHER)
    server.submit("refuse", "why", wait=True)
    expect(stays.locator("#jobs tr")).to_have_count(1)
    sign_in(goes, "other-token")
    expect(goes.locator("#who")).to_have_text("ann, control")


class Blank(BaseHTTPRequestHandler):
    """An empty page of another server, which permits itself everything."""

    def do_GET(self) -> None:
        """Answer with the page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another</title>")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def another_server() -> Iterator[str]:
    """A server on another port of localhost."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Blank) as other:
        thread = Thread(target=other.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{other.server_address[1]}"
        finally:
            other.shutdown()
            thread.join()


# What a hostile page of the same host does, with whatever cookies the browser has.
ATTACK = """async (server) => {
    const send = (method, path, body) => fetch(server + path, {
        method, body, mode: "no-cors", credentials: "include",
    }).then(() => "sent", () => "failed");
    const found = {};
    found.control = await send("POST", "/pool/workers", '{"workers":1}');
    found.submit = await send("POST", "/jobs", '{"type":"quick"}');
    found.login = await send("POST", "/ui/session", '{"token":"r-token"}');
    found.read = await fetch(server + "/jobs", {credentials: "include"})
        .then(() => "read", () => "refused");
    found.stream = await new Promise((resolve) => {
        const events = new EventSource(server + "/events", {withCredentials: true});
        events.onopen = () => resolve("open");
        events.onerror = () => { events.close(); resolve("refused"); };
    });
    found.frame = await new Promise((resolve) => {
        const frame = document.createElement("iframe");
        frame.onload = () => {
            let seen;
            try { seen = frame.contentWindow.document.title; } catch { seen = "hidden"; }
            resolve(seen);
        };
        frame.src = server + "/ui";
        document.body.append(frame);
    });
    return found;
}"""


def test_page_of_another_port_does_nothing_with_a_session(server: Server, visits: Pages) -> None:
    base = by_name(server)
    page = visits.open(server, base=base)
    sign_in(page)
    expect(page.locator("#status")).to_have_text("Ready")
    # The browser says so when it refuses.
    visits.accepted += ["CORS policy", "frame-ancestors", "ERR_FAILED", "ERR_BLOCKED", "MIME"]
    with another_server() as address:
        other = visits.open(server, "/", base=address, context=page.context)
        assert other.evaluate("document.title") == "another"

        found: dict[str, Any] = other.evaluate(ATTACK, base)

    # It does not even learn that it was refused; the log knows.
    assert (found["read"], found["stream"], found["frame"]) == ("refused", "refused", "hidden")
    for method, path in (("POST", "/pool/workers"), ("POST", "/jobs"), ("POST", "/ui/session")):
        server.wait_for_line(f"method={method} path={path} status=403")
    for path in ("/jobs", "/events"):
        server.wait_for_line(f"method=GET path={path} status=403")
    assert server.get("/pool")["workers"] == 4
    assert server.get("/jobs/counts")["total"] == 0
    # Its own page still has its session.
    assert page.evaluate(FETCH, ["POST", "jobs", {"type": "quick"}]) == 201


def test_name_that_leads_here_is_not_served(server: Server, visits: Pages) -> None:
    page = visits.open(server, base=by_name(server))
    sign_in(page)
    expect(page.locator("#status")).to_have_text("Ready")
    # The browser looks for every name below localhost on this machine.
    base = by_name(server).replace("localhost", "evil.localhost")

    rebound = visits.open(server, "/ui", base=base, context=page.context)

    assert "is not served here" in rebound.content()
    assert rebound.evaluate(FETCH, ["POST", "/jobs", {"type": "quick"}]) == 403
    assert server.get("/jobs/counts")["total"] == 0


def test_copied_cookie_reads_and_does_not_write(server: Server, visits: Pages) -> None:
    page = visits.open(server)
    sign_in(page)
    expect(page.locator("#status")).to_have_text("Ready")
    [cookie] = page.context.cookies()

    with httpx.Client(base_url=server.url, trust_env=False) as thief:
        headers = {"Cookie": f"{cookie['name']}={cookie['value']}"}
        read = thief.get("/jobs", headers=headers)
        written = thief.post("/jobs", json={"type": "quick"}, headers=headers)

    assert (read.status_code, written.status_code) == (200, 403)


def test_two_servers_of_one_host_do_not_sign_each_other_out(
    server: Server, start: Start, visits: Pages, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second/tokens").write_text(TOKENS)
    second = start("second", config=with_tokens())
    page = visits.open(server)
    sign_in(page)
    expect(page.locator("#who")).to_have_text("ann, control")

    other = visits.open(second, context=page.context)
    sign_in(other, "r-token")
    expect(other.locator("#who")).to_have_text("bob, read")

    page.reload()
    expect(page.locator("#who")).to_have_text("ann, control")
    assert len(page.context.cookies()) == 2


def test_over_tls_the_cookie_is_secure(folder: Path, start: Start, visits: Pages) -> None:
    files = (f'{kind} = "{CERTIFICATES / name}"' for kind, name in PAIR.items())
    server = start(config=with_tokens(*files))
    # The certificate is the tests' own.
    context = visits.context(trusts_all=True)
    page = visits.open(server, base=by_name(server), context=context)
    sign_in(page)

    expect(page.locator("#who")).to_have_text("ann, control")
    [cookie] = context.cookies()
    assert cookie["name"] == f"__Host-trio_jobs_{server.url.rpartition(':')[2]}"
    assert (cookie["secure"], cookie["httpOnly"]) == (True, True)
    assert page.evaluate(FETCH, ["POST", "jobs", {"type": "quick"}]) == 201


PAIR = {"certfile": "localhost.crt", "keyfile": "localhost.key"}


def test_stop_of_the_server_is_followed_with_a_session(server: Server, visits: Pages) -> None:
    visits.accepted += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING"]
    page = visits.open(server)
    sign_in(page)
    expect(page.locator("#status")).to_have_text("Ready")

    server.send(signal.SIGTERM)

    assert server.wait_exit() == 0
    expect(page.locator("#status")).to_have_text("Stopped")
