"""Errors look alike, whichever layer answers and whichever Python runs it."""

from http import HTTPStatus

import pytest

from tests.api.support import Api
from tests.server.serving import get, served
from trio_jobs.problem_details import PHRASES, Problem


def test_each_status_that_python_knows_has_a_phrase() -> None:
    assert PHRASES.keys() == {int(status) for status in HTTPStatus}


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (404, "Not Found"),
        (413, "Content Too Large"),
        (414, "URI Too Long"),
        (416, "Range Not Satisfiable"),
        (422, "Unprocessable Content"),
    ],
)
def test_phrases_are_those_of_rfc_9110(status: int, phrase: str) -> None:
    assert PHRASES[status] == phrase


def test_body_has_no_blanks_between_its_members() -> None:
    assert Problem(413, "too long", limit=3).body() == (
        b'{"type":"about:blank","title":"Content Too Large","status":413,'
        b'"detail":"too long","error":"too long","limit":3}'
    )


async def test_front_door_and_application_write_the_same_document() -> None:
    api = Api()
    of_application = await api.client.get("/nowhere")
    async with served(api.app, token="secret") as server:  # noqa: S106
        client = await server.connect()
        of_front_door = await client.request(get("/nowhere"))
        client.close()

    for answer, status in ((of_application, 404), (of_front_door, 401)):
        problem = answer.json()
        assert answer.body == Problem(status, problem["detail"]).body()
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"


async def test_status_line_has_the_same_phrase() -> None:
    async with served(Api().app) as server:
        client = await server.connect()
        await client.send(get("/jobs", "Content-Length: 99999", method="POST"))
        line = (await client.receive_rest()).partition(b"\r\n")[0]
        client.close()

    assert line == b"HTTP/1.1 413 Content Too Large"
