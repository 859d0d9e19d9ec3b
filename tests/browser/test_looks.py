"""Themes, widths, and a page that nobody looks at."""

import base64
import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.browser.conftest import Start
from tests.browser.support import Pages, expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DARK = "localStorage.setItem('trio-jobs.theme', 'dark')"


def ground(picture: bytes) -> tuple[int, int, int]:
    """The colour of a picture's upper left corner."""
    colour = Image.open(io.BytesIO(picture)).convert("RGB").getpixel((2, 2))
    assert isinstance(colour, tuple)
    return colour[0], colour[1], colour[2]


def test_theme_is_chosen_and_kept(start: Start, pages: Pages) -> None:
    page = pages.open(start())
    button = page.get_by_role("button", name="Theme: as the system")
    light = ground(page.screenshot())

    button.click()
    page.get_by_role("button", name="Theme: light").click()

    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    dark = ground(page.screenshot())
    assert sum(dark) < 200 < 600 < sum(light)
    page.reload()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()
    assert ground(page.screenshot()) == dark


def test_system_decides_the_theme_until_somebody_chooses(start: Start, pages: Pages) -> None:
    page = pages.open(start(), theme="dark")

    expect(page.get_by_role("button", name="Theme: as the system")).to_be_visible()

    assert sum(ground(page.screenshot())) < 200


def test_chosen_dark_theme_has_no_light_frame_before_it(start: Start, pages: Pages) -> None:
    server = start()
    page = pages.open(server)
    page.evaluate(DARK)
    page.goto("about:blank")
    page.evaluate("document.documentElement.style.background = '#000'")
    session = page.context.new_cdp_session(page)
    frames: list[bytes] = []

    def keep(event: dict[str, str]) -> None:
        frames.append(base64.b64decode(event["data"]))
        session.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})

    session.on("Page.screencastFrame", keep)
    session.send("Page.startScreencast", {"format": "png", "everyNthFrame": 1})
    page.goto(f"{server.url}/ui")
    expect(page.locator("#status")).to_have_text("Ready")
    session.send("Page.stopScreencast")

    assert frames
    assert max(sum(ground(frame)) for frame in frames) < 200


@pytest.mark.parametrize("width", [320, 390, 700, 701, 940, 1280])
def test_page_does_not_scroll_sideways(start: Start, pages: Pages, width: int) -> None:
    server = start()
    for n in range(3):
        server.submit("refuse", f"no such mailbox {n}: " + "w" * 300, wait=True)

    page = pages.open(server, width=width)

    expect(page.locator("#jobs tr")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_page_without_scripts_names_the_answers_that_say_the_same(
    start: Start, browser: "Browser"
) -> None:
    server = start()
    server.submit("refuse", "no such mailbox", wait=True)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{server.url}/ui")

    page.get_by_role("link", name="jobs that failed").click()

    expect(page.locator("body")).to_contain_text("no such mailbox")
    context.close()
