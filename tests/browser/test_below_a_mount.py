"""The page below a mount, in an application that decides who comes in."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.support import Pages, expect

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

PROGRAM = """
from functools import partial
from http.cookies import SimpleCookie
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.routing import Mount
from trio_jobs import Access, Role, open_jobs

PEOPLE = {"ann": Role.CONTROL, "bob": Role.READ, "shop": Role.SUBMIT}

async def refuse(payload):
    raise ValueError("no such address")

def role(scope):
    cookies = SimpleCookie(dict(scope["headers"]).get(b"cookie", b"").decode())
    user = cookies["user"].value if "user" in cookies else None
    return Access(role=PEOPLE[user], name=user) if user in PEOPLE else None

async def main():
    config = Config()
    config.bind = ["127.0.0.1:0"]
    async with open_jobs({"refuse": refuse}, max_types=MAX_TYPES) as jobs:
        await jobs.wait(jobs.submit("refuse").id)
        app = Starlette(routes=[Mount("/queue", jobs.asgi(ui=True, role=role))])
        async with trio.open_nursery() as nursery:
            [url] = await nursery.start(partial(serve, app, config))
            print(url, flush=True)

trio.run(main)
"""


@pytest.fixture(params=[None, 100], ids=["no counts", "counts"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A program whose pool counts its jobs, or not; its ``url``, and whether it ``counts``."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.replace("MAX_TYPES", repr(request.param)))
    with subprocess.Popen(
        [sys.executable, file], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            yield SimpleNamespace(url=url, counts=request.param is not None)
        finally:
            process.kill()


def become(page: "Page", program: Any, user: str) -> None:  # noqa: ANN401
    """Sign in to the application as another user."""
    page.context.add_cookies([{"name": "user", "value": user, "url": program.url}])


def test_page_shows_what_the_role_may_do_and_what_the_pool_counts(
    program: Any,  # noqa: ANN401
    pages: Pages,
) -> None:
    pages.accepted += ["401", "404"]  # without a role; and a pool that counts nothing has no events
    page = pages.open(program, "/queue/ui")
    assert page.evaluate("fetch('pool').then(answer => answer.status)") == 401
    become(page, program, "ann")
    page.goto(f"{program.url}/queue/ui")

    expect(page.locator("#status")).to_have_text("Ready")
    expect(page.locator("#who")).to_have_text("ann, control")
    expect(page.locator("#sign-out")).to_be_hidden()
    expect(page.locator("#jobs tr")).to_have_count(1)
    for part in ("#ended-tile", "#types-section", "#ended-note"):
        expect(page.locator(part)).to_be_visible(visible=program.counts)
    expect(page.locator("#ended")).to_have_text("1")
    expect(page.locator("#ended-unit")).to_have_text("ended" if program.counts else "kept")
    page.evaluate("fetch('jobs', {method: 'POST', body: JSON.stringify({type: 'refuse'})})")
    expect(page.locator("#jobs tr")).to_have_count(2)  # the list follows
    page.locator("#jobs tr").first.get_by_role("button", name="Rerun").click()
    expect(page.locator("#toast")).to_be_visible()

    become(page, program, "bob")
    page.reload()

    expect(page.locator("#who")).to_have_text("bob, read")
    expect(page.locator("#jobs tr")).to_have_count(2)
    expect(page.get_by_role("button", name="Rerun")).to_have_count(0)
    expect(page.locator("#intake")).to_be_hidden()


def test_page_says_that_the_application_lets_its_visitor_in_no_more(
    program: Any,  # noqa: ANN401
    pages: Pages,
) -> None:
    pages.accepted += ["401", "403", "404"]
    for user in ("nobody", "shop"):
        page = pages.open(program, "/queue/ui")
        become(page, program, "ann")
        page.goto(f"{program.url}/queue/ui")
        expect(page.locator("#status")).to_have_text("Ready")

        become(page, program, user)
        page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")

        expect(page.locator("#banner-text")).to_contain_text("lets you in here no more")
        expect(page.locator("#main")).to_be_hidden()
        expect(page.locator("#login")).to_be_hidden()


def test_page_says_that_the_pool_stops_although_nobody_tells_what_is_left(
    program: Any,  # noqa: ANN401
    pages: Pages,
) -> None:
    pages.accepted += ["401", "404"]
    page = pages.open(program, "/queue/ui")
    become(page, program, "ann")

    def stopping(route: "Route") -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "status": "shutting down"})

    page.route("**/queue/events", lambda route: route.fulfill(status=404))
    page.route("**/queue/pool", stopping)
    page.goto(f"{program.url}/queue/ui")

    expect(page.locator("#status")).to_have_text("Stopping")
    expect(page.locator("#banner-text")).to_have_text(
        "The server is stopping: it takes no new jobs."
    )
    expect(page.locator("#stepper")).to_be_hidden()
