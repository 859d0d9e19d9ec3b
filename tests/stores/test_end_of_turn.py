"""Functions are called at the end of the loop's turn, before any task makes another step."""

from functools import partial

import trio

from trio_jobs.stores.end_of_turn import EndOfTurn


async def test_calls_come_before_the_loop_waits_if_no_task_is_ready() -> None:
    seen: list[str] = []
    soon = EndOfTurn(failed=print)
    soon.open()
    token, over = trio.lowlevel.current_trio_token(), trio.Event()

    async def ask(name: str) -> None:
        soon(lambda: seen.append(f"called for {name}"))
        soon(lambda: token.run_sync_soon(over.set))  # nothing else wakes the loop
        seen.append(name)
        await over.wait()

    async with trio.open_nursery() as nursery:
        for name in "abc":
            nursery.start_soon(ask, name)

    assert set(seen[:3]) == {"a", "b", "c"}
    assert seen[3:] == [f"called for {name}" for name in seen[:3]]
    soon.close()


async def test_calls_come_two_turns_later_if_tasks_are_ready_for_another_step() -> None:
    seen: list[int] = []
    soon = EndOfTurn(failed=print)
    soon.open()

    for first in (1, 3):  # the second time is like the first one
        soon(partial(seen.append, first))
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        assert first not in seen
        soon(partial(seen.append, first + 1))
        await trio.lowlevel.checkpoint()
        assert seen[-2:] == [first, first + 1]
    soon.close()


async def test_function_may_ask_for_another_one_of_the_same_turn() -> None:
    seen: list[int] = []
    soon = EndOfTurn(failed=print)
    soon.open()

    soon(lambda: soon(lambda: seen.append(1)))
    for _ in range(3):
        await trio.lowlevel.checkpoint()

    assert seen == [1]
    soon.close()


async def test_error_is_told_and_the_other_functions_are_called() -> None:
    seen: list[int] = []
    failed: list[Exception] = []
    told = trio.Event()

    def fail(error: Exception) -> None:
        failed.append(error)
        told.set()

    soon = EndOfTurn(fail)
    soon.open()
    error = ValueError("a bug")

    def raise_error() -> None:
        raise error

    soon(raise_error)
    soon(lambda: seen.append(1))
    await told.wait()  # nothing else wakes the loop

    assert failed == [error]
    assert seen == [1]
    soon.close()


async def test_close_makes_the_calls_that_are_left_and_no_other() -> None:
    seen: list[int] = []
    soon = EndOfTurn(failed=print)
    soon.open()

    soon(lambda: seen.append(1))
    soon.close()
    assert seen == [1]

    soon(lambda: seen.append(2))
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    assert seen == [1]
