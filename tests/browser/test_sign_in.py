"""Signing in, what each role sees, and signing out."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import Start
from tests.browser.support import CONFIG, Pages, Server, assert_fine, expect
from tests.command import Gate

if TYPE_CHECKING:
    from playwright.sync_api import Page

TOKENS = "control token-of-ann ann\nread token-of-bob bob\nsubmit token-of-shop shop\n"
WITH_TOKENS = f'[http]\ntoken_file = "tokens"\n{CONFIG}'


@pytest.fixture
def server(start: Start, tmp_path: Path, pages: Pages) -> Server:
    """A server that knows three tokens."""
    pages.accepted.append("401")  # the console has the answer to a page that has not signed in
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "tokens").write_text(TOKENS)
    return start(config=WITH_TOKENS, headers={"Authorization": "Bearer token-of-ann"})


def sign_in(page: "Page", token: str) -> None:
    """Type a token into the form, and send it."""
    expect(page.locator("#token")).to_be_focused()
    page.keyboard.type(token)
    page.keyboard.press("Enter")


def test_token_opens_the_page_and_signing_out_closes_it(server: Server, pages: Pages) -> None:
    server.submit("refuse", wait=True)
    page = pages.open(server)
    expect(page.locator("#main")).to_be_hidden()

    sign_in(page, "token-of-ann")

    expect(page.locator("#status")).to_have_text("Ready")
    expect(page.locator("#who")).to_have_text("ann, control")
    expect(page.locator("#jobs tr")).to_have_count(1)
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#token")).to_be_focused()
    expect(page.locator("#main")).to_be_hidden()
    assert page.evaluate("fetch('jobs').then(answer => answer.status)") == 401


def test_page_stays_signed_in_over_a_reload(server: Server, pages: Pages) -> None:
    page = pages.open(server)
    sign_in(page, "token-of-ann")
    expect(page.locator("#status")).to_have_text("Ready")

    page.reload()

    expect(page.locator("#who")).to_have_text("ann, control")
    assert "token-of-ann" not in page.content() + page.evaluate(
        "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
    )


def test_wrong_token_is_refused_and_another_one_can_be_tried(server: Server, pages: Pages) -> None:
    page = pages.open(server)

    sign_in(page, "token-of-eve")

    expect(page.locator("#login-error")).to_have_text("This token is not valid here.")
    sign_in(page, "token-of-bob")
    expect(page.locator("#status")).to_have_text("Ready")


def test_readers_see_everything_and_no_button_that_the_server_refuses(
    server: Server, pages: Pages, tmp_path: Path
) -> None:
    with Gate(tmp_path / "server"):
        server.submit("at_the_gate")
        failed = server.submit("refuse", "no such mailbox", wait=True)
        page = pages.open(server)
        sign_in(page, "token-of-bob")
        expect(page.locator("#who")).to_have_text("bob, read")
        expect(page.locator("#jobs tr")).to_contain_text("no such mailbox")

        page.locator("#jobs .id").click()

        expect(page.locator("#detail")).to_contain_text(failed)
        for label in ("Rerun", "Forget", "Cancel", "Pause", "One worker"):
            expect(page.get_by_role("button", name=label)).to_have_count(0)


def test_token_that_only_submits_is_told_so(server: Server, pages: Pages) -> None:
    page = pages.open(server)

    sign_in(page, "token-of-shop")

    expect(page.locator("#login-error")).to_contain_text("needs one that may read")
    expect(page.locator("#main")).to_be_hidden()


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_wrong_with_the_form(
    server: Server, pages: Pages, axe: Path, width: int
) -> None:
    page = pages.open(server, width=width, bypass_csp=True)
    sign_in(page, "token-of-eve")
    expect(page.locator("#login-error")).not_to_have_text("")

    assert_fine(page, axe)
