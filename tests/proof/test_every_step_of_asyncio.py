"""A job on asyncio, cancelled at each turn of its loop: it ends once, unwound, and frees its slot.

A turn is what the loop runs between two looks at its selector. While Trio cancels, the loop stands
still: so each run is another place of the cancel, and a failure comes again.
"""

import asyncio
import selectors
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trio

from trio_jobs import Handler, JobContext, JobStatus, Outcome, open_jobs


class Turns(selectors.DefaultSelector):
    """Counts the loop's turns, and calls ``action`` in Trio's thread before the one asked for."""

    def __init__(self, at: int, action: Callable[[], object]) -> None:
        super().__init__()
        self.turn = 0
        self.counts = False
        self._at = at
        self._action = action
        self._token = trio.lowlevel.current_trio_token()

    def select(self, timeout: float | None = None) -> Any:  # noqa: ANN401 - as the base class
        if self.counts:
            self.turn += 1
            if self.turn == self._at:
                trio.from_thread.run_sync(self._action, trio_token=self._token)
        return super().select(timeout)


class Life:
    """One job, and what it leaves behind."""

    def __init__(self) -> None:
        self.open = 0
        self.selector: Turns

    async def work(self, _payload: object, context: JobContext) -> str:
        """Wait in a task of its own, in a thread and in a child, and clean up in several steps."""
        self.selector.counts = True
        async with AsyncExitStack() as stack:
            self.open += 1
            stack.push_async_callback(self.close)
            child = context.task_group.create_task(self.wait())
            await asyncio.sleep(0)
            await asyncio.to_thread(threading.Event().wait, 0.001)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    await asyncio.sleep(3600)
            await child
        return "done"

    async def wait(self) -> None:
        self.open += 1
        try:
            await asyncio.sleep(0.001)
        finally:
            await self.close()

    async def close(self) -> None:
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        finally:  # the cancel may come within the clean-up
            self.open -= 1


async def live(turn: int, how: str) -> tuple[Life, JobStatus, Outcome | None, bool]:
    """Run one job that is cut off before a turn of the loop.

    Returns:
        What the job has left behind, how it stands at the end, and whether it was cut off.
    """
    life = Life()
    cut = False

    def act() -> None:
        nonlocal cut
        cut = True
        if how == "end":
            scope.cancel()
        elif jobs.get(job.id).status is not JobStatus.COMPLETED:
            jobs.cancel(job.id)

    def make() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(life.selector)

    life.selector = Turns(turn, act)
    with trio.CancelScope() as scope:
        async with open_jobs(
            {"work": Handler.of(life.work, run="asyncio"), "echo": echo},
            workers=1,
            async_handlers="asyncio",
            asyncio_loop=make,
        ) as jobs:
            job = jobs.submit("work")
            await jobs.wait(job.id)
            life.selector.counts = False
            assert await jobs.result(jobs.submit("echo", "next").id) == "next"  # its slot is free
    found = jobs.get(job.id)
    return life, found.status, found.outcome, cut


async def echo(payload: object) -> object:
    return payload


@pytest.mark.parametrize("how", ["cancel", "end"])
async def test_a_job_cut_off_at_any_turn_of_its_loop(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = set()
    turn = 0
    while True:
        turn += 1
        life, status, outcome, cut = await live(turn, how)
        if not cut:  # the job has had fewer turns
            break
        assert life.open == 0, turn
        outcomes.add(outcome)
        if how == "cancel":
            assert outcome in (Outcome.CANCELLED, Outcome.SUCCEEDED), turn
        else:
            assert status is (JobStatus.COMPLETED if outcome else JobStatus.PENDING), turn
            assert outcome in (None, Outcome.SUCCEEDED), turn

    assert turn > 10
    assert (Outcome.CANCELLED if how == "cancel" else None) in outcomes
    assert {record.message for record in caplog.records} <= {"jobs_interrupted"}
