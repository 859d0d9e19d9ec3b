"""The line ``operator_action`` in the log, for each change that a person makes."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import SUBMISSION, Api
from tests.api.test_over_a_file import DurableApi
from tests.api.test_reruns import UNKNOWN, submit
from tests.asgi import Client
from tests.durable import TIMEOUT
from tests.support import SUCCEEDED, Access, AccessControl, Role, TokenTable
from trio_jobs.api.current_access import log_action
from trio_jobs.server.access_middleware import AccessMiddleware

TOKENS = TokenTable.of(["submit s-token shop", "control c-token ann", "other-token"])


@pytest.fixture
def fast_path() -> None:
    """No action takes it."""


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trio_jobs")


class Guarded(Api):
    """The application behind access control, as behind any server."""

    def __init__(self) -> None:
        super().__init__()
        self.client = Client(AccessMiddleware(self.app, AccessControl(tokens=TOKENS)))

    async def ask(self, method: str, path: str, body: bytes = b"", token: str = "c-token") -> int:  # noqa: S107
        headers = {"Authorization": f"Bearer {token}"}
        return (await self.client.request(method, path, body=body, headers=headers)).status


def actions(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of each line."""
    found = [vars(each) for each in caplog.records if each.getMessage() == "operator_action"]
    common = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}
    return [{k: v for k, v in each.items() if k not in common} for each in found]


CLIENT = "127.0.0.1:50000"
ANN = {"by": "ann", "client": CLIENT}


async def test_each_change_of_a_person_is_a_line_with_the_name_of_the_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api = Guarded()
    failed, other = submit(api), submit(api, "sms")
    pending = submit(api, ending=None)

    assert await api.ask("POST", f"/jobs/{failed}/rerun") == 201
    assert await api.ask("POST", f"/jobs/{pending}/cancel") == 202
    assert await api.ask("DELETE", f"/jobs/{failed}") == 204
    assert await api.ask("POST", "/jobs/rerun", b'{"type":["sms","a"],"limit":9}') == 201
    assert await api.ask("POST", "/jobs/rerun", b"{}") == 201
    assert await api.ask("POST", "/jobs/cancel", b'{"status":["pending"]}') == 202

    new = api.parts.store.page_nowait(limit=100)
    rerun_as = next(job.id for job in new if job.rerun_of == failed)
    assert other in {job.rerun_of for job in new}
    assert actions(caplog) == [
        {"action": "rerun", **ANN, "job_id": failed, "rerun_as": rerun_as},
        {"action": "cancel", **ANN, "job_id": pending},
        {"action": "delete", **ANN, "job_id": failed},
        {
            "action": "rerun_jobs",
            **ANN,
            "types": "a,sms",
            "outcomes": "failed,timed_out",
            "limit": 9,
            "count": 1,
        },
        {"action": "rerun_jobs", **ANN, "outcomes": "failed,timed_out", "count": 0},
        {"action": "cancel_jobs", **ANN, "statuses": "pending", "count": 3},
    ]


async def test_token_without_a_name_and_server_without_tokens_have_lines_without_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guarded, api = Guarded(), Api()
    first, second = submit(guarded, ending=None), submit(api, ending=None)

    assert await guarded.ask("POST", f"/jobs/{first}/cancel", token="other-token") == 202  # noqa: S106
    await api.client.post(f"/jobs/{second}/cancel")

    assert actions(caplog) == [
        {"action": "cancel", "client": CLIENT, "job_id": job_id} for job_id in (first, second)
    ]


@pytest.mark.parametrize("token", ["s-token", "c-token"])
async def test_no_submission_is_a_line(caplog: pytest.LogCaptureFixture, token: str) -> None:
    api = Guarded()

    for path, body in [("", SUBMISSION), ("/batch", b"[%b]" % SUBMISSION), ("/stream", SUBMISSION)]:
        assert await api.ask("POST", f"/jobs{path}", body, token) == 201

    assert actions(caplog) == []


async def test_cancel_of_a_submitter_is_none(caplog: pytest.LogCaptureFixture) -> None:
    api = Guarded()
    job_id = submit(api, ending=None)

    assert await api.ask("POST", f"/jobs/{job_id}/cancel", token="s-token") == 202  # noqa: S106
    assert actions(caplog) == []
    assert api.parts.store.find_nowait(job_id).cancel_requested


async def test_what_is_refused_is_none(caplog: pytest.LogCaptureFixture) -> None:
    api = Guarded()
    done, pending = submit(api), submit(api, ending=None)

    assert await api.ask("POST", f"/jobs/{done}/cancel") == 409
    assert await api.ask("POST", f"/jobs/{pending}/rerun") == 409
    assert await api.ask("DELETE", f"/jobs/{pending}") == 409
    assert await api.ask("POST", "/jobs/cancel", b"{}") == 400
    assert await api.ask("POST", "/jobs/rerun", b'{"limit":0}') == 400
    for method, path in [("POST", "/cancel"), ("POST", "/rerun"), ("DELETE", "")]:
        assert await api.ask(method, f"/jobs/{UNKNOWN}{path}") == 404
    api.parts.admission.close()
    assert await api.ask("POST", f"/jobs/{done}/rerun") == 503
    assert await api.ask("POST", "/jobs/rerun", b"{}") == 503

    assert actions(caplog) == []


async def test_what_the_disk_does_not_answer_is_unknown(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    api = DurableApi()
    job_id = await api.submitted()

    answer = await api.client.post(f"/jobs/{job_id}/cancel")

    assert (answer.status, trio.current_time()) == (504, TIMEOUT)
    [line] = actions(caplog)
    assert line == {"action": "cancel", "client": CLIENT, "job_id": job_id, "unknown": True}


@pytest.mark.parametrize("action", ["cancel", "run_now", "delete"])
async def test_what_takes_effect_while_the_disk_refuses_it_is_a_line(
    caplog: pytest.LogCaptureFixture, action: str
) -> None:
    api = DurableApi()
    store, journal = api.parts.store, api.parts.journal
    submission = b'{"type":"email","delay":60}' if action == "run_now" else SUBMISSION
    job_id = await api.submitted(submission)
    if action == "delete":
        store.claim(job_id)
        store.complete(job_id, SUCCEEDED)
        journal.commit()

    answers = []

    async def ask() -> None:
        path = f"/jobs/{job_id}"
        method, path = {
            "cancel": ("POST", f"{path}/cancel"),
            "run_now": ("POST", f"{path}/run-now"),
            "delete": ("DELETE", path),
        }[action]
        answers.append(await api.client.request(method, path))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        journal.refuse()

    assert answers[0].status == 507
    line = {"action": action, "client": CLIENT, "job_id": job_id}
    assert actions(caplog) == ([] if action == "delete" else [line])


async def test_what_is_cut_off_is_unknown(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    api = DurableApi()
    with trio.move_on_after(TIMEOUT / 2):
        async with trio.open_nursery() as nursery:
            api.post(nursery, "/jobs", SUBMISSION)
            await wait_all_tasks_blocked()
            api.parts.journal.commit()
            await wait_all_tasks_blocked()
            api.post(nursery, "/jobs/cancel", b'{"status":["pending"]}')

    [line] = actions(caplog)
    assert line == {
        "action": "cancel_jobs",
        "client": CLIENT,
        "statuses": "pending",
        "unknown": True,
    }


@pytest.fixture
def in_request(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Logs within a request."""

    def log(scope: object, *arguments: Any, **fields: Any) -> None:  # noqa: ANN401
        monkeypatch.setattr(
            "trio_jobs.api.current_access.current_request", lambda: type("", (), {"scope": scope})
        )
        log_action(*arguments, **fields)

    return log


def test_long_list_is_shortened_and_a_unix_socket_is_named(
    caplog: pytest.LogCaptureFixture, in_request: Callable[..., None]
) -> None:
    texts = [f"t{n}" for n in range(22)]
    in_request({"client": None}, "pause", types=texts[:20])
    in_request({"client": ("::1", 7)}, "pause", types=texts)

    assert [each["types"] for each in actions(caplog)] == [
        ",".join(texts[:20]),
        ",".join([*texts[:20], "and 2 more"]),
    ]
    assert [each["client"] for each in actions(caplog)] == ["unix", "::1:7"]


def test_who_signs_in_is_named_by_the_caller(
    caplog: pytest.LogCaptureFixture, in_request: Callable[..., None]
) -> None:
    for role in Role:
        in_request({}, "sign_in", Access(role=role, name="bob"), role=role)

    assert actions(caplog) == [
        {"action": "sign_in", "by": "bob", "client": "unix", "role": role} for role in Role
    ]
