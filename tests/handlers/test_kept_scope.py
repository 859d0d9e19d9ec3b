"""The scope that a worker keeps from job to job: each job ends as if the scope were its own."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.handlers.support import message_of
from tests.support import make_job, running_pool
from trio_jobs import Ending, Handler, Outcome
from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.kept_scope import KeptScope
from trio_jobs.handlers.registry import HandlerRegistry

Scope = KeptScope | trio.CancelScope
Block = Callable[[Scope], Awaitable[object]]


def fallback(name: str = "_cancel_status") -> KeptScope:
    """The scope of a worker with a Trio whose tasks lack one of the private names."""
    task = SimpleNamespace(child_nurseries=trio.lowlevel.current_task().child_nurseries)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(trio.lowlevel.Task, name)  # Trio cannot run meanwhile
        patch.setattr(trio.lowlevel, "current_task", lambda: task)
        return KeptScope()


# Blocks. --------------------------------------------------------------------------------------


async def succeed(_scope: Scope) -> None: ...


async def wait(_scope: Scope) -> None:
    await trio.sleep(1)


async def fail(_scope: Scope) -> None:
    raise ValueError("no")


async def be_cancelled(scope: Scope) -> None:
    scope.cancel()
    await trio.sleep(1)


async def be_cancelled_and_return(scope: Scope) -> None:
    scope.cancel()


async def be_cancelled_and_fail(scope: Scope) -> None:
    scope.cancel()
    raise ValueError("no")


async def be_late(scope: Scope) -> None:
    scope.deadline = trio.current_time() + 1
    await trio.sleep(2)


async def be_late_and_return(scope: Scope) -> None:
    scope.deadline = trio.current_time() + 1
    with trio.CancelScope(shield=True):
        await trio.sleep(2)


async def be_in_time(scope: Scope) -> None:
    scope.deadline = trio.current_time() + 1.5
    await trio.sleep(1)


async def leave_a_scope_open(_scope: Scope) -> None:
    trio.CancelScope().__enter__()


async def leave_a_shield_open(_scope: Scope) -> None:
    trio.CancelScope(shield=True).__enter__()


async def leave_a_deadline_open(_scope: Scope) -> None:
    trio.move_on_after(0.5).__enter__()  # noqa: ASYNC122 - left open on purpose


async def leave_a_cancelled_scope_open_and_fail(_scope: Scope) -> None:
    inner = trio.CancelScope()
    inner.__enter__()
    inner.cancel()
    raise ValueError("no")


async def close_in_the_wrong_order(_scope: Scope) -> None:
    outer, inner = trio.CancelScope(), trio.CancelScope()
    outer.__enter__()
    inner.__enter__()
    with contextlib.suppress(RuntimeError):
        outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)


async def leave_a_nursery_open_and_close_the_scope_around_it(_scope: Scope) -> None:
    with contextlib.suppress(RuntimeError), trio.CancelScope():
        await trio.open_nursery().__aenter__()


async def open_and_close(_scope: Scope) -> None:
    with trio.move_on_after(0.5):
        await trio.sleep(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 1)


async def raise_a_cancelled_that_it_has_kept(_scope: Scope) -> None:
    with trio.CancelScope() as inner:
        inner.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            kept = error
    raise kept


BLOCKS: list[Block] = [
    succeed,
    wait,
    fail,
    be_cancelled,
    be_cancelled_and_return,
    be_cancelled_and_fail,
    be_late,
    be_late_and_return,
    be_in_time,
    leave_a_scope_open,
    leave_a_shield_open,
    leave_a_deadline_open,
    leave_a_cancelled_scope_open_and_fail,
    close_in_the_wrong_order,
    open_and_close,
    raise_a_cancelled_that_it_has_kept,
]

Around = Callable[[], contextlib.AbstractContextManager[Scope]]


async def run_one(block: Block, around: Around) -> tuple[object, ...]:
    """What comes of a block, and how the task goes on behind it."""
    raised: BaseException | None = None
    returned = False
    try:
        with around() as scope:
            await block(scope)
            returned = True
    except BaseException as error:  # noqa: BLE001 - compared
        if trio.current_effective_deadline() == float("-inf"):
            await trio.lowlevel.checkpoint()
        raised = error
    with trio.CancelScope(shield=True):
        await trio.sleep(1)  # long enough for each deadline that a block has left
    return returned, type(raised), trio.current_effective_deadline(), trio.current_time()


async def run_all(blocks: Sequence[Block], around: Around, *, ends: float) -> list[object]:
    """What comes of these blocks, in a task that is cancelled after so many seconds."""
    seen: list[object] = []
    with trio.move_on_after(ends) as outer:
        for block in blocks:
            seen.append(await run_one(block, around))  # noqa: PERF401 - a part counts as well
    return [*seen, outer.cancelled_caught, trio.current_time()]


@given(
    blocks=st.lists(st.sampled_from(BLOCKS), max_size=6),
    ends=st.floats(0, 15) | st.just(float("inf")),
    make=st.sampled_from([KeptScope, fallback]),
)
def test_each_block_ends_as_if_the_scope_were_its_own(
    blocks: list[Block], ends: float, make: Callable[[], KeptScope]
) -> None:
    async def with_own_scopes() -> list[object]:
        return await run_all(blocks, trio.CancelScope, ends=ends)

    async def with_a_kept_scope() -> list[object]:
        seen: list[object] = []
        with trio.move_on_after(ends) as outer, contextlib.closing(make()) as scope:
            for block in blocks:
                seen.append(await run_one(block, lambda: scope))  # noqa: PERF401
        return [*seen, outer.cancelled_caught, trio.current_time()]

    kept = trio.run(with_a_kept_scope, clock=MockClock(autojump_threshold=0))

    assert kept == trio.run(with_own_scopes, clock=MockClock(autojump_threshold=0))


def innermost() -> object:
    """The status of the scope that this task is in."""
    return trio.lowlevel.current_task()._cancel_status


KEEPING = [succeed, wait, be_in_time, close_in_the_wrong_order, open_and_close]


@pytest.mark.parametrize("block", [*BLOCKS, leave_a_nursery_open_and_close_the_scope_around_it])
async def test_scope_is_kept_unless_the_block_has_used_it_up(
    block: Block, autojump_clock: MockClock
) -> None:
    with contextlib.closing(KeptScope()) as scope:
        with contextlib.suppress(BaseException), scope:
            first = innermost()
            await block(scope)
        with scope:
            second = innermost()
            assert scope.deadline == float("inf")

    assert (first is second) is (block in KEEPING)


@pytest.mark.parametrize("name", ["_cancel_status", "_child_nurseries"])
async def test_without_a_private_name_each_block_has_a_scope_of_its_own(name: str) -> None:
    with contextlib.closing(fallback(name)) as scope:
        with scope:
            first = innermost()
        with scope:
            second = innermost()

    assert first is not second


async def test_the_task_is_in_no_scope_once_the_kept_one_is_closed() -> None:
    with trio.CancelScope() as outer:  # complains about a scope that is open inside
        status = innermost()
        scope = KeptScope()
        with scope:
            pass
        scope.close()
        scope.close()
        scope.cancel()
        await trio.lowlevel.checkpoint()

        assert innermost() is status
    assert not outer.cancelled_caught


# Jobs. ----------------------------------------------------------------------------------------


async def tell_the_scope(_payload: object) -> int:
    return id(innermost())


async def test_jobs_of_a_worker_share_a_scope_until_one_has_used_it_up() -> None:
    async def raise_(_payload: object) -> None:
        raise ValueError("no")

    async with running_pool({"tell": tell_the_scope, "raise": raise_}, workers=1) as pool:
        order = ["tell", "tell", "raise", "tell", "tell"]
        jobs = [pool.submit(job_type) for job_type in order]

    results = [ending.result for job in jobs if (ending := pool.ending(job)) is not None]
    assert results[0] == results[1]
    assert results[3] == results[4]
    assert results[2] is None


async def test_a_cancel_that_comes_too_late_does_not_reach_the_next_job() -> None:
    table = {"a": Handler.of(tell_the_scope), "b": Handler.of(trio_checkpoint)}
    executor = JobExecutor(HandlerRegistry(table), max_result_bytes=100)

    with executor.for_worker() as process:
        first = await process(make_job("1", type="a"))
        ended = executor.last_ended
        assert ended is not None
        assert not ended.cancel()
        second = await process(make_job("2", type="b"))

    for ending in (first, second):
        assert isinstance(ending, Ending)
        assert ending.outcome is Outcome.SUCCEEDED


async def trio_checkpoint(_payload: object) -> None:
    await trio.lowlevel.checkpoint()


async def test_a_worker_without_the_private_name_survives_a_scope_that_a_handler_leaves_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def leave_open(_payload: object) -> None:
        trio.CancelScope().__enter__()

    monkeypatch.setattr("trio_jobs.handlers.executor.KeptScope", fallback)
    endings: list[Ending | None] = []
    async with running_pool({"leave": leave_open, "next": trio_checkpoint}, workers=1) as pool:
        jobs = [pool.submit(job_type) for job_type in ("leave", "next", "leave", "next")]
    endings = [pool.ending(job) for job in jobs]

    failed, succeeded = endings[::2], endings[1::2]
    assert all("Cancel scope stack corrupted" in message_of(each) for each in failed if each)
    assert [each.outcome for each in succeeded if each] == [Outcome.SUCCEEDED] * 2
