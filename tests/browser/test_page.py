"""The page shows what the server does, and follows it."""

import re
import signal
from pathlib import Path

from tests.browser.conftest import Start
from tests.browser.support import Pages, expect
from tests.command import Gate


def test_page_shows_a_job_that_failed_and_why(start: Start, pages: Pages) -> None:
    server = start()
    job_id = server.submit("refuse", "no such mailbox", wait=True)

    page = pages.open(server, "/")

    assert page.url == f"{server.url}/ui"
    expect(page.locator("#status")).to_have_text("Ready")
    row = page.locator("#jobs tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("Refused: no such mailbox")
    expect(row.locator(".id")).to_have_text(f"{job_id[:8]}…{job_id[-6:]}")


def test_page_follows_a_stop_to_its_end_and_the_next_server_from_its_start(
    start: Start, pages: Pages, tmp_path: Path
) -> None:
    with Gate(tmp_path / "server") as gate:
        server = start()
        page = pages.open(server)
        expect(page.locator("#status")).to_have_text("Ready")
        server.submit("at_the_gate")
        expect(page.locator("#busy")).to_have_text("1")

        server.send(signal.SIGTERM)

        expect(page.locator("#status")).to_have_text("Stopping")
        expect(page.locator("#banner")).to_contain_text("works off 1 job")
        pages.accepted.append("ERR_CONNECTION_REFUSED")
        gate.open()
        assert server.wait_exit() == 0
        expect(page.locator("#status")).to_have_text(re.compile("Stopped|Not connected"))
        expect(page.locator("#banner")).to_be_visible()

        start("next", bind=server.address)
        expect(page.locator("#status")).to_have_text("Ready")
        expect(page.locator("#busy")).to_have_text("0")
        expect(page.locator("#banner")).to_be_hidden()
