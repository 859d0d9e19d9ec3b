"""Texts of clients and handlers are shown as texts, whatever is in them."""

import pytest

from tests.browser.conftest import Start
from tests.browser.support import CONFIG, Pages, expect

TAG = "<img src=x onerror=\"document.title='gone'\">"
# Right to left, and a mark that would turn what follows around.
OTHER_WAY = "שלום \u202egnp.exe"

OPEN = CONFIG + 'default = "work:refuse"\n'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (TAG, TAG),
        ("</pre><script>alert(1)</script>", "</pre><script>alert(1)</script>"),
        (OTHER_WAY, "שלום \\u202egnp.exe"),
        ("x" * 200, "x" * 200),
    ],
    ids=["tag", "script", "direction", "long"],
)
@pytest.mark.parametrize("width", [1280, 390])
def test_text_is_shown_as_text(
    start: Start, pages: Pages, text: str, shown: str, width: int
) -> None:
    server = start(config=OPEN)
    job_id = server.submit(text, text, wait=True)

    page = pages.open(server, f"/ui#job={job_id}", width=width)

    expect(page.locator("#detail-title")).to_contain_text(shown)
    expect(page.locator("#detail")).to_contain_text(f"Refused: {shown}")
    expect(page.locator("#detail pre").last).to_contain_text(shown.replace('"', r"\"")[:40])
    page.keyboard.press("Escape")
    expect(page.locator("#jobs tr")).to_contain_text(shown)
    expect(page.locator("#types")).to_contain_text(shown)
    assert page.locator("#jobs img, #types img, #detail img, main script").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_payload_of_a_mebibyte_is_shown_in_part_and_says_so(start: Start, pages: Pages) -> None:
    server = start()
    job_id = server.submit("quick", "y" * 1_000_000, wait=True)

    page = pages.open(server, f"/ui#job={job_id}")

    expect(page.locator("#detail")).to_contain_text("The first 50,000 of 1,000,002 characters.")
    link = page.get_by_role("link", name="All of it").first
    assert link.get_attribute("href") == f"jobs/{job_id}"


def test_values_are_shown_as_they_came(start: Start, pages: Pages) -> None:
    server = start()
    payload = (
        r'{"id": 12345678901234567890, "price": 1.10, "bell": "\u0007", "lock": {"__proto__": 1}}'
    )
    answer = server.client.post("/jobs", content=f'{{"type": "quick", "payload": {payload}}}')
    assert answer.status_code == 201, answer.text

    page = pages.open(server, f"/ui#job={answer.json()['id']}")

    shown = page.locator("#detail pre").first
    for text in ("12345678901234567890", "1.10", r"\u0007", '"__proto__": 1'):
        expect(shown).to_contain_text(text)
