"""The first of handler's end, cancel and time limit decides, once."""

import pytest
import trio
from trio.testing import MockClock

from tests.support import make_job
from trio_jobs import Outcome
from trio_jobs.handlers.kept_scope import KeptScope
from trio_jobs.handlers.running_job import RunningJob

LIMIT = 1.5

CANCELLED, TIMED_OUT = Outcome.CANCELLED, Outcome.TIMED_OUT


def running_job(*, timeout: float | None = LIMIT) -> RunningJob:
    running = RunningJob(make_job("a"), trio.current_time())
    running.scope = KeptScope()
    running.scope._scope = trio.CancelScope()
    running.start_clock(timeout)
    return running


# What happens, one after the other: a request to cancel, with the answer that it gets; the end,
# at a time or when it is known; or seconds. And the decision; None leaves it to the handler.
DECISIONS: dict[str, tuple[list[str | float], Outcome | None]] = {
    "end": (["end"], None),
    "end twice": (["end", "end"], None),
    "cancel": ([True, 2, "end"], CANCELLED),
    "cancel twice": ([True, True, "end"], CANCELLED),
    "limit": ([LIMIT, "end"], TIMED_OUT),
    "limit, cancel": ([LIMIT, False, "end"], TIMED_OUT),
    "end, cancel": (["end", False, "end"], None),
    "end, limit": (["end", 2, "end"], None),
    "end in time, known later": ([2, "end at 1.4", False, "end"], None),
    "end in time, a late cancel, known later": ([2, False, "end at 1.4", "end", False], None),
    "end at the limit, known later": ([2, "end at 1.5"], TIMED_OUT),
    "cancel, end in time, known later": ([True, 2, "end at 1.4"], CANCELLED),
}


@pytest.mark.parametrize("which", DECISIONS)
async def test_the_first_event_decides(which: str, mock_clock: MockClock) -> None:
    events, decided = DECISIONS[which]
    running, ending = running_job(), None

    for event in events:
        match event:
            case bool():
                assert running.cancel() is event
            case "end":
                ending = running.end()
            case str():
                ending = running.end(float(event.removeprefix("end at ")))
            case seconds:
                mock_clock.jump(seconds)

    assert (ending and ending.outcome) == decided


async def test_the_time_limit_counts_from_the_start_of_the_clock_and_is_the_scopes_deadline(
    mock_clock: MockClock,
) -> None:
    mock_clock.jump(10)  # waited for a process

    running = running_job()

    assert running.scope is not None
    assert running.scope.deadline == 10 + LIMIT
    assert running.end() is None
