"""Every action, by pointer and by keyboard, against what the API says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import Start
from tests.browser.support import CONFIG, Pages, Server, expect
from tests.command import Gate

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

Press = Callable[["Locator"], None]


@pytest.fixture(params=["pointer", "keyboard"])
def press(request: pytest.FixtureRequest) -> Press:
    """Presses a button."""

    def by_pointer(button: "Locator") -> None:
        button.click()

    def by_keyboard(button: "Locator") -> None:
        button.focus()
        button.press("Enter")

    return by_pointer if request.param == "pointer" else by_keyboard


@pytest.fixture
def gate(tmp_path: Path) -> "Gate":
    """What the handler `at_the_gate` waits at."""
    return Gate(tmp_path / "server")


def view(page: "Page", name: str) -> None:
    """Choose a view of the list."""
    page.locator("#filters").get_by_role("radio", name=name).check()


def row_of(page: "Page", job_id: str) -> "Locator":
    """The row of a job."""
    return page.locator("#jobs tr").filter(has_text=f"{job_id[:8]}…{job_id[-6:]}")


def focused(page: "Page") -> str:
    """The text of what has the focus."""
    text: str = page.evaluate("document.activeElement.textContent")
    return text.strip()


def failed(server: Server, message: str = "no such mailbox") -> str:
    """A job that has failed; its id."""
    return server.submit("refuse", message, wait=True)


def test_failed_job_runs_again(start: Start, pages: Pages, press: Press) -> None:
    server = start()
    job_id = failed(server)
    page = pages.open(server)

    press(row_of(page, job_id).get_by_role("button", name="Rerun"))

    expect(page.locator("#toast")).to_contain_text("Runs again as")
    new = server.get(f"/jobs/{job_id}")["rerun_as"]
    assert server.get(f"/jobs/{new}")["rerun_of"] == job_id
    # The row stays under the hand, and says what has become of it.
    expect(row_of(page, job_id)).to_contain_text(f"run again as {new[:8]}…{new[-6:]}")
    expect(row_of(page, job_id).get_by_role("button", name="Rerun")).to_have_count(0)


def test_running_job_is_cancelled_from_its_workers_place(
    start: Start, pages: Pages, press: Press, gate: Gate
) -> None:
    with gate:
        server = start()
        job_id = server.submit("at_the_gate")
        page = pages.open(server)

        press(page.locator("#slots").get_by_role("button", name="Cancel at_the_gate"))
        expect(page.locator("#ask-text")).to_contain_text(job_id)
        press(page.get_by_role("button", name="Cancel the job"))

        expect(page.locator("#toast")).to_contain_text("is being cancelled")
        expect(page.locator("#busy")).to_have_text("0")
        assert server.outcome(job_id) == "cancelled"


def test_waiting_job_is_cancelled_from_the_list(start: Start, pages: Pages, press: Press) -> None:
    server = start()
    job_id = server.submit("quick", delay=3600)
    page = pages.open(server)
    view(page, "Waiting")

    press(row_of(page, job_id).get_by_role("button", name="Cancel"))
    press(page.get_by_role("button", name="Cancel the job"))

    expect(row_of(page, job_id)).to_contain_text("cancelled")
    assert server.outcome(job_id) == "cancelled"


def test_nothing_happens_to_a_job_that_is_left(start: Start, pages: Pages, press: Press) -> None:
    server = start()
    job_id = failed(server)
    page = pages.open(server)
    forget = row_of(page, job_id).get_by_role("button", name="Forget")

    press(forget)
    # The harmless answer has the focus: a second press of the same key forgets nothing.
    expect(page.get_by_role("button", name="Leave it")).to_be_focused()
    press(page.get_by_role("button", name="Leave it"))

    expect(page.locator("#ask")).to_be_hidden()
    expect(forget).to_be_focused()
    assert server.outcome(job_id) == "failed"


def test_ended_job_is_forgotten(start: Start, pages: Pages, press: Press) -> None:
    server = start()
    job_id = failed(server)
    page = pages.open(server)

    press(row_of(page, job_id).get_by_role("button", name="Forget"))
    press(page.get_by_role("button", name="Forget the job"))

    expect(row_of(page, job_id)).to_contain_text("forgotten")
    expect(row_of(page, job_id).locator(".id")).to_be_focused()
    assert server.client.get(f"/jobs/{job_id}").status_code == 404


def test_all_failed_jobs_run_again_and_the_question_says_how_many(
    start: Start, pages: Pages, press: Press
) -> None:
    server = start()
    jobs = [failed(server) for _ in range(3)]
    page = pages.open(server)

    press(page.get_by_role("button", name="Rerun all…"))
    expect(page.locator("#ask-title")).to_have_text("Rerun 3 failed jobs?")
    press(page.locator("#ask-yes"))

    expect(page.locator("#toast")).to_have_text("3 jobs run again")
    assert all(server.get(f"/jobs/{job_id}")["rerun_as"] for job_id in jobs)


def test_interrupted_jobs_are_counted_and_run_again_with_those_that_failed(
    start: Start, pages: Pages, press: Press, gate: Gate
) -> None:
    once = '{ call = "work:at_the_gate", repeatable = false }'
    config = CONFIG.replace('"work:at_the_gate"', once) + '[store]\npath = "jobs.db"\n'
    with gate:
        server = start(config=config)
        jobs = [server.submit("at_the_gate")]
        server.wait_for_line("work at_the_gate")
        server.kill()
        server = start(config=config)
        jobs.append(failed(server))
        page = pages.open(server)

        row = page.locator("#types tr").filter(has_text="at_the_gate")
        expect(row.locator("td[data-unit='interrupted']")).to_have_text("1")
        page.locator("#since").select_option("Last hour")
        press(page.get_by_role("button", name="Rerun all…"))
        expect(page.locator("#ask-title")).to_have_text("Rerun 2 failed jobs?")
        for text in ("1 of them was interrupted", "of any time, whatever the list shows"):
            expect(page.locator("#ask-text")).to_contain_text(text)
        press(page.locator("#ask-yes"))

        expect(page.locator("#toast")).to_have_text("2 jobs run again")
        assert all(server.get(f"/jobs/{job_id}")["rerun_as"] for job_id in jobs)


def test_all_waiting_jobs_of_a_type_are_cancelled_and_the_question_says_how_many(
    start: Start, pages: Pages, press: Press
) -> None:
    server = start()
    gone = [server.submit("quick", delay=3600) for _ in range(2)]
    left = server.submit("refuse", delay=3600)
    page = pages.open(server, "/ui#view=waiting&type=quick")
    expect(page.locator("#jobs tr")).to_have_count(2)

    press(page.get_by_role("button", name="Cancel all…"))
    expect(page.locator("#ask-title")).to_have_text("Cancel 2 waiting quick jobs?")
    press(page.locator("#ask-yes"))

    expect(page.locator("#toast")).to_have_text("2 jobs cancelled")
    assert [server.outcome(job_id) for job_id in gone] == ["cancelled"] * 2
    assert server.get(f"/jobs/{left}")["status"] == "pending"


def test_job_opens_in_a_dialog_that_has_an_address_and_gives_the_focus_back(
    start: Start, pages: Pages, press: Press
) -> None:
    server = start()
    job_id = failed(server)
    page = pages.open(server)

    press(row_of(page, job_id).locator(".id"))

    dialog = page.locator("#detail")
    expect(dialog).to_contain_text("Refused: no such mailbox")
    expect(dialog).to_contain_text('"no such mailbox"')
    expect(page).to_have_url(f"{server.url}/ui#job={job_id}")
    assert page.evaluate("document.getElementById('detail').contains(document.activeElement)")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(row_of(page, job_id).locator(".id")).to_be_focused()
    expect(page).to_have_url(f"{server.url}/ui")


def test_address_of_a_job_opens_it_and_going_back_closes_it(start: Start, pages: Pages) -> None:
    server = start()
    job_id = failed(server)

    page = pages.open(server, f"/ui#job={job_id}")

    expect(page.locator("#detail")).to_contain_text(job_id)
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#detail")).to_be_hidden()
    row_of(page, job_id).locator(".id").click()
    expect(page.locator("#detail")).to_be_visible()
    page.go_back()
    expect(page.locator("#detail")).to_be_hidden()


def test_dialog_of_a_running_job_follows_it_to_its_end(
    start: Start, pages: Pages, gate: Gate
) -> None:
    with gate:
        server = start()
        job_id = server.submit("at_the_gate")
        page = pages.open(server, f"/ui#job={job_id}")
        expect(page.locator("#detail-title")).to_contain_text("running")

        gate.open()

        expect(page.locator("#detail-title")).to_contain_text("succeeded")


def test_link_at_the_top_leads_past_everything_to_the_jobs(start: Start, pages: Pages) -> None:
    server = start()
    page = pages.open(server)
    expect(page.locator("#status")).to_have_text("Ready")

    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the jobs"
    page.keyboard.press("Enter")

    expect(page.locator("#jobs-title")).to_be_focused()
    assert "#" not in page.url


def test_filters_are_in_the_address_and_come_back_with_it(start: Start, pages: Pages) -> None:
    server = start()
    quick, other = server.submit("quick", wait=True), failed(server)
    page = pages.open(server)
    expect(row_of(page, other)).to_have_count(1)

    view(page, "Ended")
    expect(page.locator("#jobs tr")).to_have_count(2)
    page.locator("#type").select_option("quick")
    expect(page.locator("#jobs tr")).to_have_count(1)
    page.locator("#since").select_option("3600")

    expect(page).to_have_url(f"{server.url}/ui#view=ended&type=quick&since=3600")
    page.reload()
    expect(row_of(page, quick)).to_have_count(1)
    expect(page.locator("#jobs tr")).to_have_count(1)
    expect(page.locator("#type")).to_have_value("quick")
    expect(page.locator("#since")).to_have_value("3600")


def test_rows_do_not_move_under_the_hand(start: Start, pages: Pages) -> None:
    server = start()
    first = failed(server)
    page = pages.open(server)
    row_of(page, first).hover()

    second, third = failed(server), failed(server)

    newer = page.locator("#newer")
    expect(newer).to_have_text("Show 2 newer")
    expect(page.locator("#jobs tr")).to_have_count(1)
    newer.click()
    expect(page.locator("#jobs tr")).to_have_count(3)
    assert [row.split("…")[-1][:6] for row in page.locator("#jobs .id").all_text_contents()] == [
        job_id[-6:] for job_id in (third, second, first)
    ]
    expect(newer).to_be_hidden()


def test_list_follows_by_itself_while_nobody_reads_it(start: Start, pages: Pages) -> None:
    server = start()
    page = pages.open(server)
    expect(page.locator("#empty")).to_have_text("Nothing has failed.")

    job_id = failed(server)

    expect(row_of(page, job_id)).to_have_count(1)


def test_long_list_goes_on_at_its_end(start: Start, pages: Pages) -> None:
    server = start()
    batch = [{"type": "refuse", "payload": n} for n in range(60)]
    assert server.client.post("/jobs/batch", content=json.dumps(batch)).status_code == 201
    for _ in range(60):  # the last of them has ended when a later job has
        failed(server)
    page = pages.open(server)
    expect(page.locator("#jobs tr")).to_have_count(50)

    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#jobs tr")).to_have_count(100)
    page.get_by_role("button", name="Show more").click()

    expect(page.locator("#jobs tr")).to_have_count(120)
    expect(page.locator("#older")).to_be_hidden()


def test_name_of_a_type_leads_to_its_jobs(start: Start, pages: Pages, press: Press) -> None:
    server = start(config=f'{CONFIG}other = "work:refuse"\n')
    job_id = failed(server)
    server.submit("other", wait=True)
    page = pages.open(server)
    expect(page.locator("#jobs tr")).to_have_count(2)

    press(page.locator("#types").get_by_role("button", name="refuse", exact=True))

    expect(page.locator("#jobs tr")).to_have_count(1)
    expect(row_of(page, job_id)).to_have_count(1)
    expect(page.locator("#jobs-title")).to_be_focused()
    expect(page).to_have_url(f"{server.url}/ui#type=refuse")


def test_workers_become_more_and_fewer(
    start: Start, pages: Pages, press: Press, gate: Gate
) -> None:
    with gate:
        server = start()
        for _ in range(4):
            server.submit("at_the_gate")
        page = pages.open(server)
        expect(page.locator("#busy")).to_have_text("4")

        press(page.get_by_role("button", name="One worker more"))
        expect(page.locator("#toast")).to_contain_text("5 workers")
        assert server.get("/pool")["workers"] == 5
        expect(page.locator("#slots li")).to_have_count(5)

        for left in (4, 3):
            press(page.get_by_role("button", name="One worker fewer"))
            expect(page.locator("#wanted")).to_have_text(str(left))
        expect(page.locator("#toast")).to_contain_text("1 more ends with its job")
        state = server.get("/pool")
        assert (state["workers"], state["leaving"], state["busy"]) == (3, 1, 4)
        expect(page.locator("#workers-note")).to_have_text("1 more ends with its job")


def test_intake_is_paused_after_a_question_and_opened_again(
    start: Start, pages: Pages, press: Press
) -> None:
    server = start()
    page = pages.open(server)
    expect(page.locator("#status")).to_have_text("Ready")

    press(page.get_by_role("button", name="Pause intake"))
    press(page.locator("#ask").get_by_role("button", name="Pause the intake"))

    expect(page.locator("#status")).to_have_text("Intake paused, all done")
    assert server.client.post("/jobs", json={"type": "quick"}).status_code == 503
    press(page.get_by_role("button", name="Open intake"))
    expect(page.locator("#status")).to_have_text("Ready")
    server.submit("quick", wait=True)


def test_type_is_paused_and_goes_on(start: Start, pages: Pages, press: Press) -> None:
    server = start()
    page = pages.open(server)
    row = page.locator("#types tr").filter(has_text="quick")

    press(row.get_by_role("button", name="Pause quick"))
    expect(row.locator(".tag")).to_have_text("paused")
    held = server.submit("quick")
    server.submit("refuse", wait=True)

    assert server.get("/pool")["paused"] == ["quick"]
    assert server.get(f"/jobs/{held}")["status"] == "pending"
    expect(page.locator("#types-note")).to_have_text("1 job held back")
    press(row.get_by_role("button", name="Resume quick"))
    expect(row.locator(".tag")).to_be_hidden()
    expect(row.locator("td").nth(3)).to_have_text("1")
    assert server.outcome(held) == "succeeded"


def test_all_types_are_paused_after_a_question_and_go_on(
    start: Start, pages: Pages, press: Press
) -> None:
    server = start()
    page = pages.open(server)

    press(page.get_by_role("button", name="Pause all", exact=True))
    press(page.get_by_role("button", name="Pause all types"))

    expect(page.locator("#types .tag").filter(visible=True)).to_have_count(5)
    assert len(server.get("/pool")["paused"]) == 5
    press(page.get_by_role("button", name="Resume all"))
    expect(page.locator("#types .tag").filter(visible=True)).to_have_count(0)
    assert server.get("/pool")["paused"] == []


def test_waiting_job_runs_now(start: Start, pages: Pages, press: Press) -> None:
    server = start()
    job_id = server.submit("quick", delay=3600)
    page = pages.open(server, "/ui#view=waiting")
    expect(row_of(page, job_id)).to_contain_text("begins in")

    press(row_of(page, job_id).get_by_role("button", name="Run now"))

    expect(page.locator("#toast")).to_contain_text("is due now")
    expect(row_of(page, job_id)).to_contain_text("succeeded")
    assert server.outcome(job_id) == "succeeded"
