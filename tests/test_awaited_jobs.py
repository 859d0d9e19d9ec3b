"""`AwaitedJobs`: it has the methods of `Jobs` and `DurableJobs`, with their parameters."""

import inspect
from collections.abc import Callable
from typing import Any, assert_type

import pytest

from trio_jobs import DurableJobs, Job, JobCounts, JobQueue, Jobs, PoolStatistics
from trio_jobs.awaited_jobs import AwaitedJobs


def public(cls: type) -> dict[str, Callable[..., object]]:
    return {name: method for name, method in inspect.getmembers(cls) if name[0] != "_"}


def test_every_method_of_a_pool_is_there() -> None:
    assert set(public(Jobs)) == set(public(DurableJobs)) == {*public(AwaitedJobs), "asgi"}


@pytest.mark.parametrize("name", sorted(public(AwaitedJobs)))
def test_method_has_the_parameters_and_the_text_of_the_pools(name: str) -> None:
    method, durable = public(AwaitedJobs)[name], public(DurableJobs)[name]

    assert inspect.iscoroutinefunction(method) == (name != "unfinished")
    assert inspect.signature(method) == inspect.signature(durable)
    assert inspect.signature(method) == inspect.signature(public(Jobs)[name])
    assert method.__doc__ == durable.__doc__


async def types_of(jobs: JobQueue) -> None:
    """Checked by mypy, and not run."""
    job = assert_type(await jobs.submit("email", {"to": "you"}, delay=3, key="k"), Job)
    assert_type(await jobs.submit_all([("email", None)]), list[Job])
    assert_type(await jobs.wait(job.id), Job)
    assert_type(await jobs.result(job.id), Any)
    assert_type(await jobs.result(job.id, type=list[int]), list[int])
    assert_type(await jobs.page(limit=3), list[Job])
    assert_type(await jobs.statistics(), PoolStatistics)
    assert_type(await jobs.counts(), JobCounts)
    assert_type(await jobs.cancel_all(type=["a"]), int)
    assert_type(jobs.unfinished(), tuple[list[str], list[str]])
    await jobs.submit(3)  # type: ignore[arg-type]
    await jobs.submit("email", dealy=3)  # type: ignore[call-arg]
    await jobs.submit()  # type: ignore[call-arg]
