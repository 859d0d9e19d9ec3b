"""A pipe, ended in each way at every single step of it: what it said is true, nothing is left."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests import durable
from tests.api.piping import PIPE, Line, line
from tests.asgi import Client
from tests.durable import make_durable_parts
from tests.proof.share import step_width, swept
from tests.support import (
    AccessControl,
    HandlerRegistry,
    HttpSettings,
    TokenTable,
    make_parts,
    start_pool,
)
from trio_jobs import Handler, Job, JobStatus, Outcome
from trio_jobs.access_changes import AccessChanges
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.app import create_app
from trio_jobs.pool.pool import Pool
from trio_jobs.server.access_middleware import AccessMiddleware
from trio_jobs.testing.steps import At

pytestmark = pytest.mark.usefixtures("quiet")

# Each piece of the body; the client waits a second between them. More lines than the window holds,
# and more than the buffer.
PIECES = [
    line(1) + line(2, key="a") + b"\n" + line(4, "slow"),
    line(5, "fail") + b'{"type":"none"}\n' + line(2, key="a") + line(8, key="a") + line(9)[:-9],
    line(9)[-9:] + line(10, "slow", key="b") + line(11, delay=1) + line(12) + line(13, key="c"),
]
ANSWERED = {*range(1, 14)} - {3}
REFUSED = {6, 8}
KEYS = {2: "a", 7: "a", 8: "a", 10: "b", 13: "c"}
UNKEYED = {"1", "4", "5", "9", "11", "12"}  # their payloads


async def quick(payload: int) -> int:
    await trio.lowlevel.checkpoint()
    return payload


async def slow(payload: int) -> int:
    await trio.sleep(1.5)
    return payload


async def fail(payload: int) -> int:
    raise ValueError(payload)


HANDLERS = {name: Handler.of(each) for name, each in (("email", quick), ("slow", slow))}
HANDLERS["fail"] = Handler.of(fail)


@dataclass
class Piped:
    """One run of the scenario.

    Attributes:
        pool: The pool.
        cut: Cancels the request.
        workers: Cancels the workers.
        lose_access: Takes the client's token away.
        hang_up: Disconnects the client.
        lines: What it has read, the end among it.
        whole: Whether its answer was complete.
    """

    pool: Pool
    lose_access: Callable[[], None]
    cut: trio.CancelScope = field(default_factory=trio.CancelScope)
    workers: trio.CancelScope = field(default_factory=trio.CancelScope)
    hang_up: Callable[[], None] = lambda: None
    lines: list[Line] = field(default_factory=list)
    whole: bool = False

    @property
    def answers(self) -> dict[int, Line]:
        """By the number of the line."""
        found = {each["line"]: each for each in self.lines if "outcome" in each or "id" in each}
        assert len(found) == len([each for each in self.lines if "end" not in each])
        return found

    @property
    def end(self) -> Line | None:
        """The last line, if it has come."""
        ends = [each for each in self.lines if "end" in each]
        assert ends in ([], self.lines[-1:])
        return ends[0] if ends else None


@asynccontextmanager
async def pool_in_memory() -> AsyncIterator[tuple[Pool, trio.CancelScope]]:
    parts = make_parts(HandlerRegistry(HANDLERS), buffer_size=3, keep_completed=100)
    async with beside(partial(start_pool, parts)) as workers:
        yield parts.pool, workers
        parts.admission.close()


@asynccontextmanager
async def pool_over_a_file() -> AsyncIterator[tuple[Pool, trio.CancelScope]]:
    parts = make_durable_parts(HANDLERS, buffer_size=3, keeps_pending=False)
    async with trio.open_nursery() as disk:
        disk.start_soon(parts.journal.run, 1)
        async with beside(partial(durable.start_pool, parts)) as workers:
            yield parts.pool, workers
            parts.admission.close()
        disk.cancel_scope.cancel()


@asynccontextmanager
async def beside(start: Callable[[trio.Nursery], None]) -> AsyncIterator[trio.CancelScope]:
    """A pool that runs beside the block, and that its scope cancels without the block."""
    scope = trio.CancelScope()

    async def run_pool(task_status: trio.TaskStatus[None]) -> None:
        with scope:
            async with trio.open_nursery() as workers:
                start(workers)
                task_status.started()

    async with trio.open_nursery() as nursery:
        await nursery.start(run_pool)
        yield scope


POOLS = {"memory": pool_in_memory, "file": pool_over_a_file}


async def run(place: str, step: int, action: Callable[[Piped], object]) -> tuple[Piped, int]:
    """Run the scenario with this action before a step; return how many steps there were."""
    control = AccessControl(tokens=TokenTable.of(["submit a-token"]))
    changes = AccessChanges(lambda: control.tokens)

    def lose_access() -> None:
        control.tokens = TokenTable.of(["submit b-token"])
        changes.note()

    async with POOLS[place]() as (pool, workers):
        context = ApiContext(
            pool=pool,
            http=HttpSettings(max_pipes=1),
            shutdown_retry_after=7,
            access_changes=changes,
        )
        client = Client(AccessMiddleware(create_app(context), control))
        piped = Piped(pool=pool, lose_access=lose_access, workers=workers)
        with At(step, lambda: action(piped)) as at:
            await converse(client, piped)
        if not (pool.admission.closed or pool.waiters.over.is_set()):
            pool.admission.intake.resume()
            control.tokens = TokenTable.of(["submit a-token"])
            # No pipe is counted any more.
            answer = await client.request("POST", PIPE, headers=AUTHORIZED)
            assert answer.status == 200
    assert pool.waiters.calls == {}
    return piped, at.steps


AUTHORIZED = {"Authorization": "Bearer a-token"}


async def converse(client: Client, piped: Piped) -> None:
    """Send the pieces, and read all that comes."""
    with piped.cut:
        async with client.open("POST", f"{PIPE}?window=4", headers=AUTHORIZED) as exchange:
            piped.hang_up = exchange.hang_up

            async def send() -> None:
                for number, piece in enumerate(PIECES, 1):
                    await trio.sleep(1)
                    await exchange.send(piece, last=number == len(PIECES))

            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def send_all() -> None:
                    # The pipe may have ended, or the client may have hung up.
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await send()

                with suppress(trio.EndOfChannel, trio.ClosedResourceError):  # hung up
                    if await exchange.head() == 200:
                        async for piece in exchange.pieces():
                            found = [each for each in piece.splitlines() if each]
                            piped.lines += map(msgspec.json.decode, found)
                        piped.whole = True
                nursery.cancel_scope.cancel()


async def jobs_of(pool: Pool) -> dict[str, Job]:
    jobs = await pool.store.page(limit=100)
    found = await pool.store.find_many([job.id for job in jobs])
    return {job.id: job for job in found}


def check_truth(piped: Piped, jobs: Mapping[str, Job]) -> None:
    """What the pipe has said is so."""
    answers = piped.answers
    for number, answer in answers.items():
        assert number in ANSWERED
        assert answer.get("key") == KEYS.get(number)
        assert (answer.get("outcome") == "refused") == (number in REFUSED)
        if number in REFUSED:
            continue
        job = jobs[answer["id"]]
        assert int(job.payload) == (2 if number == 7 else number)
        if "outcome" in answer:
            assert job.outcome == answer["outcome"]
            assert ("result" in answer) == (job.outcome is Outcome.SUCCEEDED)
    ids = Counter(answer["id"] for number, answer in answers.items() if "id" in answer)
    assert set(ids.values()) <= {1, 2}
    if (end := piped.end) is not None:
        outcomes = Counter(answer.get("outcome", "not_completed") for answer in answers.values())
        assert {name: end.get(name, 0) for name in outcomes} == outcomes
        # Each job that is in has its answer.
        assert {answer["id"] for answer in answers.values() if "id" in answer} == jobs.keys()


def nothing(_: Piped) -> None:
    """Let it run."""


def shut_down(piped: Piped) -> None:
    piped.pool.admission.close()


def hang_up(piped: Piped) -> None:
    piped.hang_up()


def cut(piped: Piped) -> None:
    piped.cut.cancel()


def end_pool(piped: Piped) -> None:
    piped.workers.cancel()


def pause(piped: Piped) -> None:
    piped.pool.admission.intake.pause()


def lose_access(piped: Piped) -> None:
    piped.lose_access()


@pytest.mark.parametrize("place", POOLS)
async def test_scenario_has_everything_in_it(place: str, autojump_clock: MockClock) -> None:
    piped, _ = await run(place, 0, nothing)

    jobs = await jobs_of(piped.pool)
    check_truth(piped, jobs)
    assert piped.answers.keys() == ANSWERED
    assert piped.answers[7]["replayed"] is True
    assert piped.end == {"end": "input", "lines": 13, "succeeded": 9, "failed": 1, "refused": 2}


ENDS: dict[Callable[[Piped], None], set[str]] = {
    shut_down: {"input", "shutting down"},
    pause: {"input", "paused"},
    lose_access: {"input", "access lost"},
}


@pytest.mark.parametrize("place", POOLS)
@pytest.mark.parametrize("action", ENDS)
async def test_pipe_that_ends_by_itself_has_told_of_each_job(
    place: str, action: Callable[[Piped], None], autojump_clock: MockClock
) -> None:
    seen = set()
    _, steps = await run(place, 0, nothing)
    for step in swept(f"{action.__name__} {place}", steps):
        piped, _ = await run(place, step, action)

        jobs = await jobs_of(piped.pool)
        check_truth(piped, jobs)
        if not piped.whole:
            continue
        end = piped.end
        if end is None:  # it was refused before its head
            assert piped.lines == []
            assert jobs == {}
            continue
        seen.add(end["end"])
        assert end["end"] in ENDS[action]
        assert all(job.status is JobStatus.COMPLETED or job.waiting for job in jobs.values())
        assert not any(job.cancel_requested for job in jobs.values())
        if action is not lose_access and not any(job.waiting for job in jobs.values()):
            assert "not_completed" not in end
    # A share of the steps may leave an end out, also below.
    assert seen == ENDS[action] or step_width() > 1
    assert steps > 50


@pytest.mark.parametrize("place", POOLS)
@pytest.mark.parametrize("action", [hang_up, cut])
async def test_lost_client_leaves_jobs_with_a_key_alone_and_no_other(
    place: str, action: Callable[[Piped], None], autojump_clock: MockClock
) -> None:
    cancelled = 0
    _, steps = await run(place, 0, nothing)
    for step in swept(f"{action.__name__} {place}", steps):
        piped, _ = await run(place, step, action)

        jobs = await jobs_of(piped.pool)
        check_truth(piped, jobs)
        # The pool has drained: whatever was not cancelled has ended by itself.
        assert all(job.status is JobStatus.COMPLETED or job.waiting for job in jobs.values())
        for job in jobs.values():
            assert not (job.cancel_requested and job.key is not None), f"step {step}"
            cancelled += job.cancel_requested
            assert job.outcome is not None or job.cancel_requested or not piped.lines
    assert cancelled > 0 or step_width() > 1
    assert steps > 50


@pytest.mark.parametrize("place", POOLS)
async def test_end_of_the_pool_leaves_no_line_without_an_answer(
    place: str, autojump_clock: MockClock
) -> None:
    incomplete = 0
    _, steps = await run(place, 0, nothing)
    for step in swept(f"end_pool {place}", steps):
        piped, _ = await run(place, step, end_pool)

        jobs = await jobs_of(piped.pool)
        if place == "memory":
            check_truth(piped, jobs)
        if piped.end is not None:
            incomplete += piped.end.get("not_completed", 0)
        assert not any(job.cancel_requested for job in jobs.values())
    assert incomplete > 0 or step_width() > 1
    assert steps > 50
