"""axe-core finds nothing in any state of the page, in both themes and at both widths."""

import signal
from pathlib import Path

import pytest

from tests.browser.conftest import Start
from tests.browser.support import Pages, Server, assert_fine, expect
from tests.command import Gate

WIDTHS = pytest.mark.parametrize("width", [1280, 390])


@WIDTHS
def test_lists_dialogs_and_banner(
    start: Start, pages: Pages, axe: Path, tmp_path: Path, width: int
) -> None:
    with Gate(tmp_path / "server"):
        server = start()
        server.submit("refuse", "no such mailbox", wait=True)
        server.submit("quick", {"to": ["a", 1]}, wait=True)
        server.submit("quick", delay=3600)
        server.submit("at_the_gate")
        page = pages.open(server, width=width, bypass_csp=True)
        expect(page.locator("#jobs tr")).to_have_count(1)

        assert_fine(page, axe)
        for view, count in (("Retrying", 0), ("Waiting", 1), ("Running", 1), ("All", 4)):
            page.get_by_role("radio", name=view).check()
            expect(page.locator("#jobs tr")).to_have_count(count)
            assert_fine(page, axe)

        page.locator("#jobs .id").last.click()
        expect(page.locator("#detail")).to_be_visible()
        assert_fine(page, axe)
        page.get_by_role("button", name="Rerun refuse").last.click()
        expect(page.locator("#toast")).to_be_visible()
        assert_fine(page, axe)
        page.get_by_role("button", name="Forget refuse").last.click()
        expect(page.locator("#ask")).to_be_visible()
        assert_fine(page, axe)
        page.get_by_role("button", name="Leave it").click()
        page.get_by_role("button", name="Close").click()

        server.send(signal.SIGTERM)
        expect(page.locator("#banner")).to_contain_text("is stopping")
        assert_fine(page, axe)
        pages.accepted.append("ERR_")
        server.kill()
        expect(page.locator("#status")).to_have_text("Not connected")
        assert_fine(page, axe)


@WIDTHS
def test_server_without_jobs(start: Start, pages: Pages, axe: Path, width: int) -> None:
    page = pages.open(start(), width=width, bypass_csp=True)

    expect(page.locator("#empty")).to_have_text("Nothing has failed.")

    assert_fine(page, axe)


def many(start: Start) -> Server:
    """A server with 20 types, two of them paused, and 100 workers; its intake is paused."""
    types = "\n".join(f'"type.{n}" = "work:quick"' for n in range(20))
    server = start(config=f"[pool]\nworkers = 100\n[handlers]\n{types}")
    for n in range(20):
        server.submit(f"type.{n}", wait=True)
    for path, body in (("pause", {"type": ["type.1", "type.2"]}), ("intake", {"open": False})):
        assert server.client.post(f"/pool/{path}", json=body).status_code == 200
    return server


def test_many_types_and_workers(start: Start, pages: Pages, axe: Path) -> None:
    server = many(start)
    page = pages.open(server, bypass_csp=True)
    expect(page.locator("#types tr")).to_have_count(20)
    expect(page.locator("#slots li")).to_have_count(20)
    expect(page.locator("#status")).to_have_text("Intake paused, all done")
    expect(page.locator("#types .tag").filter(visible=True)).to_have_count(2)

    assert_fine(page, axe)
    page.get_by_role("button", name="Show all 100").click()

    expect(page.locator("#slots li")).to_have_count(100)
    assert_fine(page, axe)
