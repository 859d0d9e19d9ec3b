"""`JobsCollector`: the registries of programs tell the numbers of their pools."""

import asyncio

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest

import trio_jobs.asyncio
from tests.metrics.support import samples
from trio_jobs import JobQueue, open_jobs
from trio_jobs.metrics import JobsCollector


async def email(payload: object) -> object:
    """A handler."""
    return payload


HANDLERS = {"email": email}


def registry_of(jobs: object) -> CollectorRegistry:
    """A registry, which asks for all metrics when a collector without `describe` is registered."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(JobsCollector(jobs))  # type: ignore[arg-type]
    return registry


def read(registry: CollectorRegistry) -> dict[str, float]:
    """The samples without labels, or with the type alone."""
    found = samples(generate_latest(registry))
    return {
        name: value for (name, labels), value in found.items() if dict(labels).keys() <= {"type"}
    }


async def test_pool_on_trio_is_told_from_its_own_thread_and_from_others() -> None:
    async with open_jobs(HANDLERS, workers=3, max_types=10) as jobs:
        registry = registry_of(jobs)
        await jobs.result(jobs.submit("email").id)

        here = read(registry)
        elsewhere = await trio.to_thread.run_sync(read, registry)

    for found in (here, elsewhere):
        assert (found["workers"], found["jobs_submitted_total"]) == (3, 1)
        assert found["job_run_seconds_count"] == 1
        assert "http_requests_total" not in found
        assert "event_loop_lag_seconds" not in found


async def test_pool_that_counts_nothing_tells_its_state() -> None:
    async with open_jobs(HANDLERS) as jobs:
        registry = registry_of(jobs)
        jobs.submit("email")

        found = read(registry)

    assert found["buffer_used"] == 1
    assert "jobs_submitted_total" not in found


def test_pool_of_an_asyncio_program_is_told_in_the_loops_thread() -> None:
    async def program() -> tuple[dict[str, float], CollectorRegistry]:
        async with trio_jobs.asyncio.open_jobs(HANDLERS, max_types=10) as jobs:
            registry = registry_of(jobs)
            await jobs.result((await jobs.submit("email")).id)
            return read(registry), registry

    found, registry = asyncio.run(program())

    assert found["jobs_submitted_total"] == 1
    assert read(registry) == {}  # the pool has ended


@pytest.mark.parametrize("run", [trio.run, asyncio.run], ids=["trio", "asyncio"])
def test_queue_is_told_while_it_is_open(run: object) -> None:
    queue = JobQueue(HANDLERS, max_types=10)
    registry = registry_of(queue)

    async def program() -> dict[str, float]:
        async with queue.lifespan():
            await queue.result((await queue.submit("email")).id)
            return read(registry)

    before = read(registry)
    found = run(program() if run is asyncio.run else program)  # type: ignore[operator]
    after = read(registry)

    assert (before, after) == ({}, {})
    assert found["jobs_submitted_total"] == 1
