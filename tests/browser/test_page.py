"""The page shows what the server does."""

import re
from pathlib import Path

from tests.browser.conftest import Start
from tests.browser.support import CONFIG, Pages, expect
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


def test_numbers_are_those_of_the_pool(start: Start, pages: Pages, tmp_path: Path) -> None:
    with Gate(tmp_path / "server"):
        server = start()
        for _ in range(6):
            server.submit("at_the_gate")
        server.submit("quick", delay=3600)
        page = pages.open(server)

        expect(page.locator("#busy")).to_have_text("4")
        expect(page.locator("#workers")).to_have_text("4 workers")
        expect(page.locator("#buffered")).to_have_text("2")
        expect(page.locator("#buffer-size")).to_have_text("100 places")
        row = page.locator("#types tr").filter(has_text="at_the_gate")
        expect(row.locator("td").nth(0)).to_have_text("2")
        expect(row.locator("td").nth(1)).to_have_text("4")
        expect(page.locator("#slots .link")).to_have_text(["at_the_gate"] * 4)
        state = server.get("/pool")
        assert (state["busy"], state["buffered"], state["types"]["quick"]["pending"]) == (4, 2, 1)


def test_progress_is_shown_while_a_job_runs_and_after_it_has_failed(
    start: Start, pages: Pages, tmp_path: Path
) -> None:
    with Gate(tmp_path / "server") as gate:
        server = start()
        job_id = server.submit("import_pages", "<b>page</b> 243")
        page = pages.open(server)

        slot = page.locator("#slots li").filter(has_text="import_pages")
        expect(slot).to_contain_text("<b>page</b> 243")
        expect(slot.locator("progress")).to_have_js_property("value", 243 / 400)
        page.get_by_role("radio", name="Running").check()
        expect(page.locator("#jobs tr")).to_contain_text("<b>page</b> 243")
        slot.locator(".link").click()
        expect(page.locator("#detail")).to_contain_text("243 of 400 · <b>page</b> 243")
        gate.open()

        expect(page.locator("#detail")).to_contain_text("Progress when it ended")
        expect(page.locator("#detail")).to_contain_text("243 of 400 · <b>page</b> 243")
        expect(page.locator("#detail")).to_contain_text("the 244th page is torn")
        assert server.outcome(job_id) == "failed"


def test_job_between_two_attempts_is_apart_from_the_failed_ones(start: Start, pages: Pages) -> None:
    retry = '[handlers.again]\ncall = "work:refuse"\n[handlers.again.retry]\nattempts = 3\n'
    server = start(config=f"{CONFIG}{retry}backoff = [3600]\n")
    job_id = server.submit("again", "no such mailbox")
    page = pages.open(server, "/ui#view=retrying")

    row = page.locator("#jobs tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text(f"{job_id[:8]}…{job_id[-6:]}")
    expect(row).to_contain_text(re.compile(r"1 attempt so far, the next in \d+ min"))
    expect(row).to_contain_text("Refused: no such mailbox")
    page.get_by_role("radio", name="Waiting").check()
    expect(page.locator("#empty")).to_have_text("Nothing waits.")
    page.get_by_role("radio", name="Failed").check()
    expect(page.locator("#empty")).to_have_text("Nothing has failed.")
    types = page.locator("#types tr").filter(has_text="again")
    expect(types.locator("td").nth(2)).to_have_text("1")


def test_lines_that_a_failed_job_has_logged_are_in_the_job(start: Start, pages: Pages) -> None:
    config = f"{CONFIG}\n[logging]\nkeep_job_lines = 10\n"
    server = start(config=config)
    job_id = server.submit("log_and_refuse", "<i>line</i>", wait=True)

    page = pages.open(server, f"/ui#job={job_id}")

    expect(page.locator("#detail pre").last).to_contain_text("<i>line</i>")
    expect(page.get_by_role("heading", name="Log", exact=True)).to_be_visible()
