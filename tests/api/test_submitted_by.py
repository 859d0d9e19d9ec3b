"""``submitted_by``: each job has the name of the token that it was submitted with."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api, answer_now
from tests.api.test_over_a_file import DurableApi
from tests.api.test_reruns import FAILED, complete
from tests.asgi import Client
from tests.support import Access, AccessControl, Role, TokenTable
from trio_jobs.api.fast_path import FastPath
from trio_jobs.server.access_middleware import AccessMiddleware

TOKENS = TokenTable.of(["submit s-token shop", "control c-token ann", "submit unnamed"])
SHOP = Access(role=Role.SUBMIT, name="shop")

KEYED = SUBMISSION[:-1] + b',"key":"k"}'
LATER = SUBMISSION[:-1] + b',"delay":60}'
WAYS = [
    ("/jobs", SUBMISSION, {}),
    ("/jobs", LATER, {}),
    ("/jobs", SUBMISSION, {"idempotency_key": "k"}),
    ("/jobs", SUBMISSION, {"prefer": "wait=0"}),
    ("/jobs/batch", b"[%b,%b,%b]" % (SUBMISSION, KEYED, LATER), {}),
    ("/jobs/stream", b"%b\n%b\n%b" % (SUBMISSION, KEYED, LATER), {}),
]


@pytest.fixture
def fast_path() -> None:
    """The tests themselves name the way."""


def guarded(api: Api) -> Client:
    """A client of the application behind access control, without the fast path."""
    return Client(AccessMiddleware(api.app, AccessControl(tokens=TOKENS)))


def names(api: Api) -> set[str | None]:
    return {job.submitted_by for job in api.parts.store.page_nowait(limit=100)}


@pytest.mark.parametrize(("path", "body", "headers"), WAYS)
@pytest.mark.parametrize(("token", "name"), [("s-token", "shop"), ("unnamed", None)])
async def test_each_way_in_notes_the_name_of_the_token(
    path: str, body: bytes, headers: dict[str, str], token: str, name: str | None
) -> None:
    api = Api()

    answer = await guarded(api).post(path, body, authorization=f"Bearer {token}", **headers)

    assert answer.status == 201
    assert names(api) == {name}


@pytest.mark.parametrize("body", [SUBMISSION, LATER])
async def test_fast_path_notes_it_and_answers_as_without_a_name(body: bytes) -> None:
    api = Api()

    answer = answer_now(api.both_ways, "POST", "/jobs", {}, body, SHOP)

    assert answer is not None
    assert answer.status == 201
    assert "submitted_by" not in answer.json()
    assert names(api) == {"shop"}
    shown = await api.client.get(answer.headers["location"])
    assert shown.json()["submitted_by"] == "shop"
    assert (await api.client.get("/jobs")).json()[0]["submitted_by"] == "shop"


async def test_fast_path_refuses_a_job_with_a_name_as_any_other() -> None:
    api = Api()
    while True:
        answer = answer_now(api.both_ways, "POST", "/jobs", {}, SUBMISSION, SHOP)
        assert answer is not None
        if answer.status != 201:
            break

    assert answer.status == 429
    assert len(api.parts.store) == api.parts.admission.buffered == api.parts.capacity.buffer_size


async def test_repetition_is_answered_by_the_first_job_with_its_name() -> None:
    api = Api()
    client = guarded(api)

    for token in ("s-token", "c-token", "unnamed"):
        answer = await client.post(
            "/jobs", SUBMISSION, authorization=f"Bearer {token}", idempotency_key="k"
        )
        assert answer.status == 201

    assert answer.headers["idempotent-replayed"] == "true"
    assert names(api) == {"shop"}


@pytest.mark.parametrize("path", ["/jobs/{}/rerun", "/jobs/rerun"])
async def test_rerun_has_the_name_of_who_asks_for_it(path: str) -> None:
    api = Api()
    client = guarded(api)
    answer = await client.post("/jobs", SUBMISSION, authorization="Bearer s-token")
    old = complete(api, answer.json()["id"], FAILED)

    answer = await client.post(
        path.format(old.id),
        b"{}" if path == "/jobs/rerun" else b"",
        authorization="Bearer c-token",
    )

    assert answer.status == 201
    jobs = api.parts.store.page_nowait(limit=9)
    assert [(job.rerun_of, job.submitted_by) for job in jobs] == [(None, "shop"), (old.id, "ann")]


async def test_server_without_tokens_knows_no_names() -> None:
    api = Api()

    assert (await api.client.post("/jobs", SUBMISSION)).status == 201
    assert names(api) == {None}


async def test_name_is_in_the_file() -> None:
    api = DurableApi()
    fast_path = FastPath(api.context, find=api.parts.store.find_nowait)
    answers = []

    async def submit() -> None:
        answer = fast_path.answer_now("POST", b"/jobs", {b"host": b"test"}, SUBMISSION, SHOP)
        assert answer is not None
        assert not isinstance(answer, tuple)
        answers.append(await answer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit)
        await wait_all_tasks_blocked()
        api.parts.journal.commit()

    assert [status for status, *_ in answers] == [201]
    [job] = api.parts.file.values()
    assert job.submitted_by == "shop"
