"""`GET /ui`, and the files of the page."""

import re

import pytest

from tests.api.support import Api

FILES = {
    "/ui": "text/html; charset=utf-8",
    "/ui/app.css": "text/css; charset=utf-8",
    "/ui/app.js": "text/javascript; charset=utf-8",
    "/ui/icon.svg": "image/svg+xml",
}


@pytest.mark.parametrize("path", FILES)
async def test_file_is_there_with_its_type_and_what_browsers_may_do_with_it(path: str) -> None:
    answer = await Api().client.get(path)

    assert (answer.status, answer.headers["content-type"]) == (200, FILES[path])
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "'unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize("path", FILES)
async def test_browser_that_has_the_file_asks_and_gets_no_second_copy(path: str) -> None:
    api = Api()
    first = await api.client.get(path)

    again = await api.client.get(path, if_none_match=first.headers["etag"])
    weak = await api.client.get(path, if_none_match=f"W/{first.headers['etag']}")
    other = await api.client.get(path, if_none_match='"other"')

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status, weak.status, other.status) == (304, 304, 200)
    assert again.body == b""
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["cache-control"] == "no-cache"
    assert not {"content-type", "content-length"} & again.headers.keys()


async def test_each_file_has_a_tag_of_its_own() -> None:
    api = Api()

    tags = {(await api.client.get(path)).headers["etag"] for path in FILES}

    assert len(tags) == len(FILES)


async def test_head_has_the_length_and_no_body() -> None:
    api = Api()
    whole = await api.client.get("/ui/app.js")

    head = await api.client.request("HEAD", "/ui/app.js")

    assert (head.status, head.body) == (200, b"")
    assert head.headers == whole.headers


async def test_root_leads_to_the_page_below_any_path_of_a_proxy() -> None:
    answer = await Api().client.get("/")

    assert (answer.status, answer.headers["location"], answer.body) == (303, "ui", b"")


async def test_page_names_only_files_that_are_there_by_relative_addresses() -> None:
    api = Api()
    page = (await api.client.get("/ui")).body.decode()

    names = set(re.findall(r'(?:src|href)="([^"#]+)"', page))

    assert names == {"ui/app.css", "ui/app.js", "ui/icon.svg"} | {
        "pool",
        "jobs?order=ended&amp;limit=50",
        "jobs?order=newest&amp;limit=50",
    }
    for name in names:
        assert (await api.client.get("/" + name.replace("&amp;", "&"))).status == 200, name


async def test_page_has_no_style_and_no_script_within() -> None:
    page = (await Api().client.get("/ui")).body.decode()

    assert re.search(r"\sstyle=|\son\w+=|<style", page) is None
    assert re.findall(r"<script[^>]*>[^<]+", page) == []


@pytest.mark.parametrize("path", ["/", *FILES])
async def test_without_the_page_its_paths_are_unknown(path: str) -> None:
    answer = await Api(ui=False).client.get(path)

    assert answer.status == 404
