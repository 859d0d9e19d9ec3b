"""`waiting=` and `order=next`: the jobs that wait, over HTTP and from a program."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import Api, assert_problem
from tests.api.test_listing import fill, ids, job_id
from tests.support import NOON, make_job, make_parts, running_pool
from trio_jobs import (
    DurableJobs,
    Ending,
    Handler,
    Job,
    JobError,
    Jobs,
    Outcome,
    RetryPolicy,
    Waiting,
    open_jobs,
)
from trio_jobs.job import Later
from trio_jobs.pool.job_pages import STRIDE

ERROR = JobError(type="E", message="no")


def filled(api: Api, count: int = 60) -> dict[str, list[str]]:
    """Add jobs of each kind; return the ids by kind, those that wait by their times."""
    names = fill(api, count)
    shuffled = random.Random(1).sample(range(count), count)  # noqa: S311
    found: dict[str, list[tuple[int, str]]] = {"delayed": [], "retrying": [], "other": []}
    for n, name in enumerate(names):
        kind = ("delayed", "retrying", "other")[n % 3]
        seconds = shuffled[n] // 2  # some at the same time
        if kind == "delayed":
            job = api.parts.store.find_nowait(name)
            api.parts.store._jobs[name] = replace(job, run_at=NOON + timedelta(seconds=seconds))
        elif kind == "retrying":
            api.parts.store.claim(name)
            api.parts.store.postpone(name, Later(seconds=seconds, error=ERROR))
        elif n % 2:
            api.parts.store.claim(name)
            api.parts.store.complete(name, Ending(outcome=Outcome.FAILED, error=ERROR))
        found[kind].append((seconds, name))
    return {kind: [name for _, name in sorted(pairs)] for kind, pairs in found.items()}


@pytest.mark.parametrize("kind", ["delayed", "retrying"])
async def test_jobs_that_wait_are_listed_and_counted_by_the_reason(kind: str) -> None:
    api = Api()
    wanted = filled(api)[kind]

    found = await api.client.get(f"/jobs?waiting={kind}")
    counts = (await api.client.get(f"/jobs/counts?waiting={kind}")).json()

    assert ids(found) == sorted(wanted)
    assert all("run_at" in job for job in found.json())
    assert all(("last_error" in job) == (kind == "retrying") for job in found.json())
    assert counts["total"] == counts["waiting"][kind] == counts["status"]["pending"] == len(wanted)
    assert counts["outcome"]["failed"] == 0
    assert ids(await api.client.get(f"/jobs?waiting={kind}&status=completed")) == []


@pytest.mark.parametrize("limit", [1, 7, 40, 1000])
async def test_pages_by_next_time_have_each_job_once(limit: int) -> None:
    api = Api()
    found = filled(api, 3 * STRIDE)
    target, listed, times = f"/jobs?order=next&waiting=retrying&type=even&limit={limit}", [], []
    wanted = [name for name in found["retrying"] if int(name[-12:], 16) % 2 == 0]

    for _ in range(min(len(wanted) // limit + 1, 12)):
        answer = await api.client.get(target)
        listed += ids(answer)
        times += [job["run_at"] for job in answer.json()]
        if "link" not in answer.headers:
            break
        target = answer.headers["link"].partition(">")[0][1:]

    assert listed == wanted[: len(listed)]
    assert len(listed) == min(12 * limit, len(wanted))
    assert times == sorted(times)
    counts = (await api.client.get("/jobs/counts?order=next")).json()
    assert counts["total"] == len(found["retrying"]) + len(found["delayed"])


async def test_page_goes_on_behind_a_job_that_has_begun_meanwhile() -> None:
    api = Api()
    wanted = filled(api)["retrying"]
    first = await api.client.get("/jobs?order=next&waiting=retrying&limit=5")
    api.parts.store.claim(wanted[4])

    target = first.headers["link"].partition(">")[0][1:]
    second = await api.client.get(target)
    by_id = await api.client.get(f"/jobs?order=next&waiting=retrying&limit=5&after={wanted[3]}")
    gone = await api.client.get(f"/jobs?order=next&limit=5&after={wanted[4]}")

    assert ids(second) == wanted[5:10]
    assert ids(by_id) == wanted[5:10]
    assert "that waits for a time" in assert_problem(gone, 404)["detail"]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("order=next", "order=next needs a limit"),
        ("waiting=failed", "waiting must be one of delayed, retrying, held, got 'failed'"),
        ("order=later", "order must be one of oldest, newest, ended, next, got 'later'"),
    ],
)
async def test_anything_else_is_refused(query: str, text: str) -> None:
    assert assert_problem(await Api().client.get(f"/jobs?{query}"), 400)["detail"] == text


async def sleep(_payload: object) -> None:
    await trio.sleep_forever()


async def test_held_jobs_are_those_beyond_a_limit_and_of_a_paused_type() -> None:
    handlers = {"slow": Handler.of(sleep, max_running=1), "mail": Handler.of(sleep)}
    async with running_pool(handlers, workers=3) as running:
        api = Api(parts=running.parts)
        running.parts.pool.paused.pause(["mail"])
        running.submit("slow")
        await wait_all_tasks_blocked()
        held = [running.submit("slow").id, running.submit("mail").id]
        await wait_all_tasks_blocked()
        listed = await api.client.get("/jobs?waiting=held")
        counts = (await api.client.get("/jobs/counts")).json()
        pool = (await api.client.get("/health/ready")).json()
        running.scope.cancel()

    assert ids(listed) == held
    assert counts["waiting"] == {"delayed": 0, "retrying": 0, "held": 2}
    assert pool["held"] == 2


# From a program. -------------------------------------------------------------------------------


@asynccontextmanager
async def either(path: Path | None) -> AsyncIterator[Jobs | DurableJobs]:
    async def fail(_payload: object) -> None:
        raise ValueError("no")

    async def note(_payload: object) -> None:
        """Succeed."""

    policy = RetryPolicy(attempts=2, base=600, jitter=False)
    handlers = {"fail": fail, "retry": Handler.of(fail, retry=policy), "note": note}
    async with open_jobs(handlers, path=path) as jobs:
        yield jobs


async def page(jobs: Jobs | DurableJobs, **options: Any) -> list[Job]:  # noqa: ANN401
    return jobs.page(**options) if isinstance(jobs, Jobs) else await jobs.page(**options)


@pytest.mark.parametrize("durable", [False, True])
async def test_program_pages_by_each_order_and_filter(durable: bool, tmp_path: Path) -> None:
    async with either(tmp_path / "jobs.db" if durable else None) as jobs:
        submitted: list[Job] = []
        for type_, delay in (("fail", None), ("note", 900), ("retry", None), ("fail", None),
                             ("note", None), ("note", 300)):  # fmt: skip
            made = jobs.submit(type_, delay=delay)
            submitted.append(made if isinstance(made, Job) else await made)
            if delay is None and type_ != "retry":
                await jobs.wait(submitted[-1].id)
        while not (retrying := await page(jobs, waiting=["retrying"])):  # noqa: ASYNC110
            await trio.sleep(0.001)
        first, late, retry, second, done, soon = (job.id for job in submitted)

        async def listed(**options: Any) -> list[str]:  # noqa: ANN401
            return [job.id for job in await page(jobs, **options)]

        assert [job.id for job in retrying] == [retry]
        assert await listed() == [first, late, retry, second, done, soon]
        assert await listed(order="newest", limit=2) == [soon, done]
        assert await listed(order="newest", after=done, limit=2) == [second, retry]
        assert await listed(order="ended") == [second, first]
        assert await listed(order="next") == [soon, retry, late]
        assert await listed(order="next", waiting=["delayed"]) == [soon, late]
        assert await listed(type=["note"], status=["completed"], outcome=["succeeded"]) == [done]
        assert await listed(since=submitted[3].created_at) == [second, done, soon]
        assert await listed(until=submitted[2].created_at) == [first, late]
        ended = await page(jobs, order="ended", limit=1)
        assert await listed(order="ended", after=ended[0]) == [first]
        waits = await page(jobs, order="next", limit=2)
        assert await listed(order="next", after=waits[-1]) == [late]
        (again,) = await jobs.rerun_all(outcome=["failed"], limit=1)
        await jobs.wait(again.id)
        assert await listed(order="ended", rerun=False, until=None) == [again.id, second]
        counts = await jobs.counts()
        assert counts.waiting[Waiting.RETRYING] == 1

        for options, text in BAD:
            with pytest.raises(ValueError, match=text):
                await page(jobs, **options)
        with pytest.raises(ValueError, match="after must be a job of the order ended"):
            await page(jobs, order="ended", after=submitted[1])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"order": "last"}, "order must be one of oldest, newest, ended, next, got 'last'"),
    ({"order": None}, "order must be one of"),
    ({"order": "ended", "after": job_id(1)}, "after must be a job in the order ended"),
    ({"order": "next", "after": job_id(1)}, "after must be a job in the order next"),
    ({"type": "note"}, "type must be a list of one or more non-empty texts, got 'note'"),
    ({"status": []}, "status must be a list"),
    ({"status": ["done"]}, "status must be some of pending, processing, completed, got 'done'"),
    ({"outcome": ["good"]}, "outcome must be some of succeeded, failed"),
    ({"waiting": ["failed"]}, "waiting must be some of delayed, retrying, held"),
    ({"since": NOON.replace(tzinfo=None)}, "since must be a datetime with a time zone"),
    ({"until": "2026-11-29"}, "until must be a datetime with a time zone"),
    ({"rerun": "no"}, "rerun must be True or False"),
]


async def test_filtered_page_of_a_program_is_found_in_a_long_history(
    autojump_clock: MockClock,
) -> None:
    parts = make_parts(keep_failed=3 * STRIDE)
    for n in range(3 * STRIDE):
        parts.store.add(make_job(job_id(n), type="rare" if n == 2 * STRIDE else "usual"))
    jobs = Jobs(parts.pool, parts.store, now=parts.pool.now, max_payload_bytes=100)

    assert [job.id for job in jobs.page(type=["rare"], limit=1)] == [job_id(2 * STRIDE)]
    assert jobs.page(type=["none"]) == []
