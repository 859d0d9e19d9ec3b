"""A program with a pool of its own, cut off or broken at every step: nobody waits in vain.

The instruments are those of `tests.proof.program`; here `open_jobs` stands where `main` does, and
tasks outside of the block where the clients do.
"""

import contextlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from unittest import mock

import pytest
import trio
from trio.testing import MockClock

from tests.proof.program import (
    Program,
    cancel,
    for_each_step,
    in_place_of_a_thread,
    jobs_of,
    noted,
    run,
    run_to_its_end,
)
from tests.proof.raising import Part, only_faults
from tests.proof.share import first_step, soak_width, step_width
from tests.support import HandlerRegistry
from trio_jobs import (
    Handler,
    InvalidTransitionError,
    Job,
    Jobs,
    JobStatus,
    Outcome,
    QueueFullError,
    ShuttingDownError,
    open_jobs,
)

pytestmark = pytest.mark.usefixtures("quiet")


@dataclass(slots=True)
class Block(Program):
    """One run of a program with a block.

    Attributes:
        jobs: The pool, once there is one.
        inside: A nursery inside of the block.
        left_at: When the body of the block was left, clean-up included; and
            what it was left by.
        came_out: What has come out of `open_jobs`.
    """

    jobs: Jobs | None = None
    inside: trio.Nursery | None = None
    left_at: float | None = None
    left_by: BaseException | None = None
    came_out: BaseException | None = None

    @property
    def pool_is_over(self) -> bool:
        """Whether all of its workers have gone."""
        assert self.send is not None
        return self.send.statistics().open_receive_channels == 0

    def jobs_that_do_not_wait(self) -> list[Job]:
        """Those that have not completed, and do not wait for another attempt."""
        assert self.core is not None
        unfinished = self.core.unfinished()
        return [*unfinished.begun, *unfinished.not_begun]

    def handlers(self) -> HandlerRegistry:
        """Among them one that takes its time to go, and goes by itself."""
        stubborn = Handler.of(self.careful, timeout=self.unit / 2)
        return HandlerRegistry({**Program.handlers(self).table, "stubborn": stubborn})

    # What can happen at a step, beside what can happen to any program.

    def leave_the_block(self) -> None:
        cancel(self.inside)

    def fail_in_the_block(self) -> None:
        self.fail_in(self.inside)


Action = Callable[[Block], None]
Outsider = Callable[[Block, Jobs], Awaitable[None]]

ACTIONS: list[Action] = [
    Block.cancel_program,
    Block.leave_the_block,
    Block.fail_in_the_block,
    Block.fail_in_the_pool,
    Block.fail_beside_the_program,
]

# The scenario. ----------------------------------------------------------------------------------


async def block(program: Block) -> None:
    """Open a pool, use it, and leave it to drain."""
    handlers = program.handlers().table
    try:
        async with open_jobs(handlers, workers=2, buffer_size=2) as program.jobs:
            try:
                async with trio.open_nursery() as program.inside:
                    program.opened.set()
                    await use(program, program.jobs)
            except BaseException as error:
                program.left_by = error
                raise
            finally:
                program.left_at = trio.current_time()
    except BaseException as error:
        program.came_out = error
        raise


async def use(program: Block, jobs: Jobs) -> None:
    """Jobs of three endings: one fails and comes back; one waits for its cancel, and unwinds."""
    submit(program, jobs, "work", "b1")
    submit(program, jobs, "flaky", "b2")
    careful = None
    try:
        careful = await submit_when_possible(program, jobs, "careful", "b3")
        await trio.sleep(2.5)
    finally:
        with trio.fail_after(100, shield=True):  # far more than the jobs need
            await trio.lowlevel.checkpoint()
            submit(program, jobs, "work", "b4")
            if careful is not None:
                with contextlib.suppress(InvalidTransitionError):
                    jobs.cancel(careful.id)
                await wait(program, jobs, careful)
            await submit_when_possible(program, jobs, "work", "b5")


async def wait_for_room(program: Block, jobs: Jobs) -> None:
    """Submit more than there is room for, for as long as jobs are taken."""
    job_types = itertools.cycle(["stubborn", "stubborn", "thread"])
    for n in itertools.count():
        if await submit_when_possible(program, jobs, next(job_types), f"r{n}") is None:
            break
    told_at = trio.current_time()
    program.facts.append(lambda _: no_later_than_the_end(program, told_at))


async def wait_for_a_job(program: Block, jobs: Jobs) -> None:
    """Wait for one that takes as long as its time limit."""
    job = submit(program, jobs, "limited", "o1")
    if job is not None:
        await wait(program, jobs, job)


async def drain(program: Block, jobs: Jobs) -> None:
    """Close it from outside, while the block goes on."""
    await trio.sleep(1.5)
    await jobs.drain()
    assert jobs.statistics().status == "shutting down"
    assert program.jobs_that_do_not_wait() == [] or program.pool_is_over


OUTSIDERS: list[Outsider] = [wait_for_room, wait_for_a_job]
WITH_DRAIN = [*OUTSIDERS, drain]


def submit(program: Block, jobs: Jobs, job_type: str, token: str) -> Job | None:
    """Submit a job, and take down what comes of it; the job, if it is in."""
    try:
        job = jobs.submit(job_type, token)
    except (QueueFullError, ShuttingDownError):
        program.told.refused.add(token)
        return None
    program.told.accepted[token] = job.id
    return job


async def submit_when_possible(program: Block, jobs: Jobs, job_type: str, token: str) -> Job | None:
    """The same when there is room; who is interrupted has submitted nothing."""
    program.told.refused.add(token)
    try:
        job = await jobs.submit_when_possible(job_type, token)
    except ShuttingDownError:
        assert jobs.statistics().status == "shutting down"
        return None
    program.told.refused.remove(token)
    program.told.accepted[token] = job.id
    return job


async def wait(program: Block, jobs: Jobs, job: Job) -> None:
    """Wait for a job, and take down what this tells of it."""
    job = await jobs.wait(job.id)
    assert job.status is JobStatus.COMPLETED or program.pool_is_over
    program.facts.append(lambda _: stayed(jobs, job))


# What must hold in the end, beside `tests.proof.program.check`. ---------------------------------


def stayed(jobs: Jobs, told: Job) -> None:
    """A job is as it was said to be when it, or the pool, had ended."""
    assert jobs.get(told.id) == told


def no_later_than_the_end(program: Block, told_at: float) -> None:
    """Who waited for room was told when the block was left, not when its jobs had unwound."""
    assert program.left_at is not None
    assert told_at <= program.left_at


async def check_shut(jobs: Jobs) -> None:
    """No more jobs are taken, and nobody waits any more."""
    assert jobs.statistics().status == "shutting down"
    with pytest.raises(ShuttingDownError):
        jobs.submit("work", "late")
    with pytest.raises(ShuttingDownError):
        jobs.submit_all([("work", "late")])
    with pytest.raises(ShuttingDownError):
        await jobs.submit_when_possible("work", "late")
    for job_id in itertools.chain(*jobs.unfinished()):
        assert await jobs.wait(job_id) == jobs.get(job_id)
    await jobs.drain()


def check_ending(program: Block, action: Action) -> None:
    """The block has ended as it must after this."""
    part = program.harm.part
    if action is Block.cancel_program:
        assert program.fault is None
    elif part in (None, Part.HANDLER):
        assert program.fault is None
        # It has drained. A job that failed as the block was left does not come back.
        assert {event for event, _ in program.names.events} <= {"jobs_waiting"}
        assert program.took < 10
        check_harmed_job(program)
    else:
        assert program.fault is not None
        assert only_faults(program.fault)
    if part is Part.REST or (part is not None and action is Block.fail_in_the_block):
        # As it is, unless it was raised at the end of the block, where it drains.
        assert program.left_by is None or program.came_out is program.left_by


def check_harmed_job(program: Block) -> None:
    """That whose handler was made to raise has not succeeded."""
    for job in jobs_of(program).values():
        if job.id == program.harm.job_id:
            assert job.ending is not None
            assert job.ending.outcome is not Outcome.SUCCEEDED


# Running it. ------------------------------------------------------------------------------------


async def whole_block(program: Block) -> None:
    """Run the block to its end, whatever that is."""
    with (
        mock.patch("trio_jobs.embed.make_pool", program.make_pool),
        mock.patch("trio_jobs.embed.log.warning", program.names.note_unfinished),
    ):
        await run_to_its_end(program, partial(block, program))


def run_and_check(
    action: Action, step: int, *, seed: int, outsiders: Sequence[Outsider] = OUTSIDERS
) -> tuple[Block, int]:
    """Run the scenario, do ``action`` just before its ``step``-th step, and check everything."""
    program = Block(unit=1.0, in_memory=True)

    async def one(outsider: Outsider) -> None:
        await program.opened.wait()
        assert program.jobs is not None
        await outsider(program, program.jobs)

    async def scenario() -> None:
        async with trio.open_nursery() as program.clients:
            for outsider in outsiders:
                program.clients.start_soon(one, outsider)
            await whole_block(program)
            assert program.jobs is not None
            await check_shut(program.jobs)

    with mock.patch("trio.to_thread.run_sync", in_place_of_a_thread):
        clock = MockClock(autojump_threshold=0)
        steps = run(program, scenario, action, step, seed=seed, clock=clock)
    with noted(f"seed {seed}, {action.__name__} at step {step} of {steps}"):
        check_ending(program, action)
    return program, steps


def at_every_step(
    action: Action, *, seed: int, outsiders: Sequence[Outsider], first: int = 1, every: int = 1
) -> set[Part]:
    """Run it once for each step that it has; where in the program something was raised."""
    run_at = partial(run_and_check, action, seed=seed, outsiders=outsiders)
    return for_each_step(run_at, first=first, every=every)


def test_scenario_has_everything_in_it() -> None:
    program, _ = run_and_check(Block.nothing, 0, seed=0)

    jobs = jobs_of(program)
    outcomes = {job.ending.outcome for job in jobs.values() if job.ending is not None}
    assert outcomes == set(Outcome) - {Outcome.INTERRUPTED}
    assert (program.began["b2"], program.ended["b2"]) == (2, 1)
    assert {"b1", "b2", "b3", "b5", "o1", "r1"} <= program.told.accepted.keys()
    assert any(token.startswith("r") for token in program.told.refused)


every_action = pytest.mark.parametrize("action", ACTIONS, ids=lambda each: each.__name__)
both_ends = pytest.mark.parametrize(
    "outsiders", [OUTSIDERS, WITH_DRAIN], ids=["left", "drained before"]
)


@every_action
@both_ends
def test_whatever_step_it_happens_at_nobody_waits_in_vain(
    action: Action, outsiders: Sequence[Outsider]
) -> None:
    first = first_step(f"{action.__name__} {len(outsiders)}")
    at_every_step(action, seed=0, outsiders=outsiders, first=first, every=step_width())


@both_ends
def test_whichever_task_of_the_block_raises_nobody_waits_in_vain(
    outsiders: Sequence[Outsider],
) -> None:
    raised_in = at_every_step(Block.fail_in_the_task, seed=0, outsiders=outsiders)

    assert raised_in == {Part.HANDLER, Part.WORKER, Part.REST}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 7))
@pytest.mark.parametrize(
    "action",
    [*ACTIONS, Block.fail_in_the_task, Block.exit_in_the_task],
    ids=lambda each: each.__name__,
)
@both_ends
def test_at_every_step_of_a_block_the_same_holds_under_more_seeds(
    outsiders: Sequence[Outsider], action: Action, seed: int
) -> None:
    at_every_step(action, seed=seed, outsiders=outsiders, every=soak_width())
