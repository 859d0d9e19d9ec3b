"""The page follows the server: through a stop, a death and a restart, and only while it is seen."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import Start
from tests.browser.support import CONFIG, Pages, expect
from tests.command import Gate
from tests.docs.machine import need

if TYPE_CHECKING:
    from playwright.sync_api import Page

LOGGED = f"[http]\naccess_log = true\n{CONFIG}"

# nginx with the page below a path of its own, which it removes; the ports are filled in.
PROXY = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr notice;
events {}
http {
    access_log off;
    client_body_temp_path collected;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    uwsgi_temp_path temporary;
    scgi_temp_path temporary;
    server {
        listen 127.0.0.1:PORT;
        location /queue/ {
            proxy_pass http://ADDRESS/;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
        }
    }
}
"""


def hide(page: "Page", *, hidden: bool) -> None:
    """Have the page believe that nobody sees it; playwright's pages are all seen."""
    page.evaluate(
        "hidden => {"
        " Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


def test_page_follows_a_stop_to_its_end_and_the_next_server_from_its_start(
    start: Start, pages: Pages, tmp_path: Path
) -> None:
    with Gate(tmp_path / "server") as gate:
        server = start()
        page = pages.open(server)
        server.submit("at_the_gate")
        server.submit("refuse", wait=True)
        expect(page.locator("#busy")).to_have_text("1")
        expect(page.locator("#jobs tr")).to_have_count(1)

        server.send(signal.SIGTERM)

        expect(page.locator("#status")).to_have_text("Stopping")
        expect(page.locator("#banner")).to_contain_text("no new jobs. It works off 1 job, within")
        # What the server refuses from now on has no button; the running job can be cancelled.
        expect(page.locator("#jobs").get_by_role("button", name="Rerun")).to_have_count(0)
        expect(page.locator("#bulk")).to_be_hidden()
        expect(page.locator("#slots").get_by_role("button", name="Cancel")).to_be_visible()
        pages.accepted += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING"]
        gate.open()
        assert server.wait_exit() == 0
        expect(page.locator("#status")).to_have_text("Stopped")
        expect(page.locator("#banner")).to_contain_text("looks for it again by itself")
        expect(page.locator("#ended")).to_have_text("2")

        start("next", bind=server.address)
        expect(page.locator("#status")).to_have_text("Ready")
        expect(page.locator("#banner")).to_be_hidden()
        expect(page.locator("#ended")).to_have_text("0")
        expect(page.locator("#jobs tr")).to_have_count(0)


def test_page_says_that_a_killed_server_is_gone_and_comes_back_with_the_next(
    start: Start, pages: Pages
) -> None:
    pages.accepted += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING"]
    server = start()
    page = pages.open(server)
    server.submit("refuse", wait=True)
    expect(page.locator("#jobs tr")).to_have_count(1)

    server.kill()

    expect(page.locator("#status")).to_have_text("Not connected")
    expect(page.locator("#banner")).to_contain_text("these numbers are old")
    expect(page.locator("#jobs tr")).to_have_count(1)
    start("next", bind=server.address)
    expect(page.locator("#status")).to_have_text("Ready")
    expect(page.locator("#jobs tr")).to_have_count(0)


def test_page_that_is_opened_before_its_server_finds_it(start: Start, pages: Pages) -> None:
    pages.accepted += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING"]
    first = start()
    page = pages.open(first)
    expect(page.locator("#status")).to_have_text("Ready")
    hide(page, hidden=True)
    first.kill()

    hide(page, hidden=False)

    expect(page.locator("#status")).to_have_text("Not connected")
    start("next", bind=first.address)
    expect(page.locator("#status")).to_have_text("Ready")


def test_page_that_nobody_sees_holds_no_stream(start: Start, pages: Pages) -> None:
    server = start(config=LOGGED)
    page = pages.open(server)
    expect(page.locator("#status")).to_have_text("Ready")
    assert not any("/events" in line for line in server.lines)  # the answer goes on

    hide(page, hidden=True)

    server.wait_for_line("GET", "/events")
    server.submit("refuse", wait=True)
    expect(page.locator("#ended")).to_have_text("0")
    hide(page, hidden=False)
    expect(page.locator("#ended")).to_have_text("1")
    expect(page.locator("#jobs tr")).to_have_count(1)


@pytest.mark.parametrize("streams", [0, 1])
def test_page_asks_again_and_again_if_it_gets_no_stream(
    start: Start, pages: Pages, streams: int
) -> None:
    pages.accepted += ["404", "503"]
    server = start(config=f"[http]\nmax_event_streams = {streams}\n{CONFIG}")
    with server.client.stream("GET", "/events") as taken:
        assert taken.status_code == (200 if streams else 404)
        page = pages.open(server)
        expect(page.locator("#status")).to_have_text("Ready")

        server.submit("refuse", wait=True)

        expect(page.locator("#ended")).to_have_text("1")
        expect(page.locator("#jobs tr")).to_have_count(1)


def test_page_works_below_the_path_of_a_proxy(start: Start, pages: Pages, tmp_path: Path) -> None:
    need("nginx")
    server = start(config=f'[http]\nallowed_hosts = ["localhost"]\n{CONFIG}')
    for _ in range(60):
        server.submit("refuse", "no such mailbox")
    server.submit("refuse", wait=True)
    port = free_port()
    config = PROXY.replace("PORT", str(port)).replace("ADDRESS", server.address)
    (tmp_path / "nginx.conf").write_text(config)
    with subprocess.Popen(
        ["nginx", "-e", "stderr", "-p", ".", "-c", "nginx.conf"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as nginx:
        try:
            assert nginx.stderr is not None
            assert any("event method" in line for line in nginx.stderr)  # it listens by then
            base = f"http://localhost:{port}/queue"
            page = pages.open(server, "/", base=base)

            assert page.url == f"{base}/ui"
            expect(page.locator("#status")).to_have_text("Ready")
            expect(page.locator("#jobs tr")).to_have_count(50)
            page.get_by_role("button", name="Show more").click()
            expect(page.locator("#jobs tr")).to_have_count(61)
            page.locator("#jobs tr").first.get_by_role("button", name="Rerun").click()
            expect(page.locator("#toast")).to_contain_text("Runs again as")
            expect(page.locator("#ended")).to_have_text(re.compile("6[12]"))
            page.close()  # before its stream is cut off
        finally:
            nginx.kill()


def free_port() -> int:
    """A port that nobody listens at."""
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1])"
    return int(subprocess.check_output([sys.executable, "-c", code]))


def test_page_says_what_a_stop_leaves_in_the_file(
    start: Start, pages: Pages, tmp_path: Path
) -> None:
    with Gate(tmp_path / "server") as gate:
        server = start(config=f'{CONFIG}\n[store]\npath = "jobs.db"\n')
        page = pages.open(server)
        for _ in range(6):
            server.submit("at_the_gate")
        expect(page.locator("#buffered")).to_have_text("2")

        server.send(signal.SIGTERM)

        banner = page.locator("#banner")
        expect(banner).to_contain_text("works off 4 jobs, within")
        expect(banner).to_contain_text("2 jobs stay in the file for the next start.")
        pages.accepted += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING"]
        gate.open()
        assert server.wait_exit() == 0
