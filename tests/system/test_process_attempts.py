"""Failures in child processes decide about another attempt, as they would in the server."""

import sys
from pathlib import Path

import pytest
import trio

from tests.command import PATIENCE
from tests.handlers import tasks
from tests.handlers.support import able_to_import_tests, attempt
from tests.support import Later, ProcessPool
from trio_jobs import Ending, Handler, JobError, Outcome, RetryPolicy

BUSY = JobError(type="ConnectionResetError", message="busy")
GROUP = JobError(
    type="ExceptionGroup", message="g (2 sub-exceptions): OSError: busy; ValueError: no"
)
NO = JobError(type="GiveUp", message="no")


@pytest.mark.parametrize(
    ("what", "on", "end"),
    [
        ("fail", ["OSError"], Later(seconds=7, error=BUSY)),
        ("fail", ["ValueError"], Ending(outcome=Outcome.FAILED, error=BUSY)),
        (
            "retry",
            ["ValueError"],
            Later(seconds=30, error=JobError(type="OSError", message="busy")),
        ),
        ("snooze", ["ValueError"], Later(seconds=30, snooze=True)),
        ("give up", ["Exception"], Ending(outcome=Outcome.FAILED, error=NO)),
        ("group", ["Exception"], Later(seconds=7, error=GROUP)),
        ("group", ["OSError"], Ending(outcome=Outcome.FAILED, error=GROUP)),
    ],
)
async def test_what_it_raises_decides(
    what: str, on: list[str], end: Ending | Later, processes: ProcessPool
) -> None:
    retry = RetryPolicy(attempts=2, jitter=False, base=7, on=on)
    handler = Handler.of(tasks.ask, run="process", retry=retry)

    assert await attempt(handler, f'"{what}"'.encode(), processes=processes) == end


@pytest.mark.parametrize(
    ("on", "is_repeated"),
    [("trio_jobs.ProcessDied", True), ("Exception", True), ("OSError", False)],
)
async def test_its_death_is_an_exception_of_its_own(
    on: str, is_repeated: bool, processes: ProcessPool
) -> None:
    handler = Handler.of(tasks.die, run="process", retry=RetryPolicy(attempts=2, on=[on]))

    end = await attempt(handler, b"9", processes=processes)

    assert isinstance(end, Later) is is_repeated
    assert isinstance(end, Later) or end.outcome is Outcome.FAILED


@pytest.mark.parametrize(("on", "is_repeated"), [("TimeoutError", True), ("ValueError", False)])
async def test_its_time_limit_counts_as_a_timeout_error(
    on: str, is_repeated: bool, processes: ProcessPool, tmp_path: Path
) -> None:
    handler = Handler.of(
        tasks.enter_and_wait,
        run="process",
        timeout=0.1,
        retry=RetryPolicy(attempts=2, on=[on]),
    )

    end = await attempt(handler, f'"{tmp_path}"'.encode(), processes=processes)

    assert isinstance(end, Later) is is_repeated
    assert isinstance(end, Later) or end.outcome is Outcome.TIMED_OUT


# A child knows the module of the program's classes by another name.
PROGRAM = """
import trio
from tests.handlers.support import attempt
from trio_jobs import Handler, RetryPolicy
from trio_jobs.handlers.frames import Function
from trio_jobs.handlers.process_pool import ProcessPool

class Busy(Exception):
    pass

def work(payload):
    raise Busy(payload)

async def main():
    async with ProcessPool(1, functions=[Function("__main__:work", None)]) as processes:
        for on in (Busy, "__main__.Busy", "OSError"):
            policy = RetryPolicy(attempts=2, on=[on])
            handler = Handler.of(work, run="process", retry=policy)
            print(type(await attempt(handler, b"1", processes=processes)).__name__)

if __name__ == "__main__":
    trio.run(main)
"""


async def test_an_exception_of_the_program_itself_is_known_in_its_children(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    with trio.fail_after(PATIENCE):
        finished = await trio.run_process(
            [sys.executable, program], env=able_to_import_tests(), capture_stdout=True
        )

    assert finished.stdout == b"Later\nLater\nEnding\n"


async def test_a_payload_that_does_not_fit_gets_no_other_attempt(processes: ProcessPool) -> None:
    retry = RetryPolicy(attempts=2, on=["Exception"])
    handler = Handler.of(tasks.add, run="process", retry=retry)

    end = await attempt(handler, b'{"left": 1}', processes=processes)

    error = JobError(type="PayloadError", message="$.payload: object missing required field right")
    assert end == Ending(outcome=Outcome.FAILED, error=error)
