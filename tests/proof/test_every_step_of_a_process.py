"""A job in a child process, cut off or broken at every single step of it: no child is nobody's."""

import gc
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import pytest
import trio

from tests.handlers import tasks
from tests.handlers.support import children_of, make_executor
from tests.proof.program import leaving_nothing, noted
from tests.proof.raising import FaultError, can_raise, raise_in
from tests.proof.share import share_of
from tests.support import At, JobExecutor, Later, ProcessPool, current_job_id, make_job
from trio_jobs import Ending, Handler, JobError, Outcome, RetryPolicy

pytestmark = pytest.mark.usefixtures("quiet")


@dataclass(slots=True, kw_only=True)
class Life:
    """A job from its claim to its end, and what happens to it.

    Attributes:
        ledger: Where its function notes that it has run.
        cancelled: Whether a client was told that it ends as cancelled.
        raised: Whether something was raised in one of its tasks.
        ending: How it ended; None if it was cut short.
        steps: How many it had.
    """

    executor: JobExecutor
    ledger: Path
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    cancelled: bool = False
    raised: bool = False
    ending: Ending | Later | None = None
    steps: int = 0

    async def live(self, step: int, action: "Action") -> None:
        """Process it, and do something just before one of its steps."""
        job = make_job(self.ledger.name, payload=f'"{self.ledger}"'.encode())

        def is_ours(task: trio.lowlevel.Task) -> bool:
            if task.name.endswith(("ProcessPool._serve", "look_on")):
                return action in (Life.cancel, Life.cut_off)
            return task.context.get(current_job_id) == job.id

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look_on)
            with At(step, lambda: action(self), of=is_ours) as at, self.scope:
                self.ending = await self.executor(job)
        self.steps = at.steps

    # What can happen at a step.

    def nothing(self) -> None:
        """Let it run as it is."""

    def cancel(self) -> None:
        """As for a client."""
        self.cancelled = self.executor.cancel(self.ledger.name)

    def cut_off(self) -> None:
        """As the end of the grace period does."""
        self.scope.cancel()

    def fail(self) -> None:
        """Have the task whose step it is raise."""
        task = trio.lowlevel.current_task()
        if can_raise(task):
            self.raised = True
            raise_in(task, FaultError("here"))

    def fail_cut_off(self) -> None:
        """Both at once."""
        self.cut_off()
        self.fail()


async def look_on() -> None:
    """Have steps while the function runs: the job's own task sleeps then."""
    for _ in range(3):
        await trio.lowlevel.checkpoint()


Action = Callable[[Life], None]

WORKS = Handler.of(tasks.add_a_line, run="process")
COMES_BACK = Later(seconds=7, error=JobError(type="ConnectionError", message="1"))

# What can happen at a step, and the outcome of that; none if the job is cut short.
every_action = pytest.mark.parametrize(
    ("action", "outcome"),
    [
        (Life.cancel, Outcome.CANCELLED),
        (Life.cut_off, None),
        (Life.fail, Outcome.FAILED),
        (Life.fail_cut_off, None),
    ],
    ids=["cancel", "cut_off", "fail", "fail_cut_off"],
)


@pytest.fixture(autouse=True)
def rest() -> None:
    """Nothing of earlier tests goes in the middle."""
    gc.collect()


@every_action
async def test_whatever_step_it_happens_at_an_idle_process_is_idle_again_or_has_ended(
    action: Action, outcome: Outcome | None, tmp_path: Path
) -> None:
    outcomes = set()

    with leaving_nothing():
        async with ProcessPool(1) as processes:
            await one_life(processes, tmp_path / "before")
            for step in itertools.count(1):
                life = await at_one_step(step, action, processes, tmp_path)
                outcomes.add(outcome_of(life))
                if life.steps < step:
                    break
        assert not children_of(os.getpid())
        gc.collect()  # a cycle may hold a frame, and this the pipes

    assert outcomes == {outcome, Outcome.SUCCEEDED}


@every_action
async def test_whatever_step_it_happens_at_a_job_that_fails_in_a_process_can_come_back(
    action: Action, outcome: Outcome | None, tmp_path: Path
) -> None:
    """It comes back after its own failure, and after no other."""
    policy = RetryPolicy(attempts=2, backoff="constant", base=7, jitter=False, on=[ConnectionError])
    handler = Handler.of(tasks.add_a_line_and_fail, run="process", retry=policy)
    outcomes: set[Outcome | Later | None] = set()

    with leaving_nothing():
        async with ProcessPool(1) as processes:
            await one_life(processes, tmp_path / "before")
            for step in itertools.count(1):
                life = await at_one_step(step, action, processes, tmp_path, handler)
                if isinstance(life.ending, Later):
                    outcomes.add(life.ending)
                else:
                    outcomes.add(outcome_of(life))
                if life.steps < step:
                    break
        assert not children_of(os.getpid())
        gc.collect()

    assert outcomes == {outcome, COMES_BACK}


@pytest.mark.soak
@every_action
async def test_whatever_step_it_happens_at_a_process_that_is_started_is_idle_or_has_ended(
    action: Action, outcome: Outcome | None, tmp_path: Path
) -> None:
    outcomes = set()

    for step in itertools.count(1):
        with leaving_nothing():
            async with ProcessPool(1) as processes:
                life = await at_one_step(step, action, processes, tmp_path)
            assert not children_of(os.getpid())
            gc.collect()
        outcomes.add(outcome_of(life))
        if life.steps < step:
            break

    assert outcomes == {outcome, Outcome.SUCCEEDED}


@pytest.mark.soak
async def test_a_thousand_processes_that_are_killed_leave_nothing() -> None:
    handler = Handler.of(tasks.die, run="process")

    with leaving_nothing():
        async with ProcessPool(2) as processes:
            executor = make_executor({"test": handler}, processes=processes)
            for number in range(max(20, ceil(share_of(1000)))):
                ending = await executor(make_job(str(number), payload=b"9"))
                assert isinstance(ending, Ending)
                assert ending.outcome is Outcome.FAILED
            assert not children_of(os.getpid())


async def at_one_step(
    step: int, action: Action, processes: ProcessPool, folder: Path, handler: Handler = WORKS
) -> Life:
    """A job that something happens to, unless it is over before that step; and one after it."""
    with noted(f"{action.__name__} at step {step}"):
        life = await one_life(processes, folder / f"at-{step}", step, action, handler)
        following = await one_life(processes, folder / f"after-{step}")
        assert outcome_of(following) is Outcome.SUCCEEDED
    return life


async def one_life(
    processes: ProcessPool,
    ledger: Path,
    step: int = 0,
    action: Action = Life.nothing,
    handler: Handler = WORKS,
) -> Life:
    """A job, and no child but an idle one when it has ended."""
    life = Life(executor=make_executor({"test": handler}, processes=processes), ledger=ledger)
    await life.live(step, action)
    check(life)
    assert len(children_of(os.getpid())) == len(processes._queue.idle) <= 1
    return life


def check(life: Life) -> None:
    """It has run once at the most, and ended as what was first decides; a value is a true one."""
    ran = life.ledger.read_text().count("ran") if life.ledger.exists() else 0
    assert ran <= 1
    if life.ending is None:
        assert life.scope.cancelled_caught
        return
    if isinstance(life.ending, Later):
        assert (life.ending, ran, life.cancelled, life.raised) == (COMES_BACK, 1, False, False)
        return
    assert (life.ending.outcome is Outcome.CANCELLED) == life.cancelled
    assert (life.ending.outcome is Outcome.FAILED) == life.raised
    if life.raised:
        assert life.ending.error is not None
        assert (life.ending.error.type, life.ending.error.message) == ("FaultError", "here")
    elif not life.cancelled:
        assert (life.ending.result, ran) == (b"1", 1)


def outcome_of(life: Life) -> Outcome | None:
    return life.ending.outcome if isinstance(life.ending, Ending) else None
