"""Small helpers of the handlers' tests: one job through an executor; threads and processes."""

import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import trio
from msgspec.structs import replace

from tests.support import Later, make_job
from trio_jobs import Ending
from trio_jobs.handlers.executor import JobExecutor
from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.places import Places
from trio_jobs.handlers.process_pool import ProcessPool
from trio_jobs.handlers.registry import HandlerRegistry


def make_executor(
    table: Mapping[str, Handler],
    *,
    workers: int = 2,
    max_result_bytes: int = 1_000_000,
    processes: ProcessPool | None = None,
) -> JobExecutor:
    """An executor over these handlers."""
    registry = HandlerRegistry(table)
    places = Places(registry, workers=workers)
    if processes is not None:
        places.runners[Run.PROCESS] = processes
    return JobExecutor(registry, max_result_bytes=max_result_bytes, places=places)


async def process(
    function: Callable[..., object] | Handler,
    payload: bytes = b"null",
    *,
    max_result_bytes: int = 1_000_000,
    processes: ProcessPool | None = None,
) -> Ending:
    """Process one job with one handler."""
    handler = function if isinstance(function, Handler) else Handler.of(function)
    ending = await attempt(handler, payload, max_result_bytes=max_result_bytes, processes=processes)
    assert isinstance(ending, Ending)
    return ending


async def attempt(
    handler: Handler,
    payload: bytes = b"null",
    *,
    number: int = 1,
    max_result_bytes: int = 1_000_000,
    processes: ProcessPool | None = None,
) -> Ending | Later:
    """Make one attempt at a job."""
    executor = make_executor(
        {"test": handler}, max_result_bytes=max_result_bytes, processes=processes
    )
    return await executor(replace(make_job("a", payload=payload), attempts=number))


def in_process(function: Callable[..., object], *, timeout: float | None = None) -> Handler:
    """A handler that runs in a child process."""
    return Handler.of(function, run="process", timeout=timeout)


def quoted(path: Path) -> bytes:
    """A path as a payload."""
    return f'"{path}"'.encode()


def message_of(ending: Ending) -> str:
    """The message of a job's error."""
    assert ending.error is not None
    return ending.error.message


async def wait_until_set(event: threading.Event) -> None:
    """Wait until a thread has set an event."""
    # With a limiter of its own: the handlers' threads may have taken all others.
    await trio.to_thread.run_sync(
        event.wait, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
    )


def able_to_import_tests() -> dict[str, str]:
    """The environment of a program that is to import the tests, from wherever it runs."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def entered(folder: Path) -> list[int]:
    """The processes that have left their ids in the folder."""
    return [int(path.stem) for path in folder.glob("*.pid")]


async def wait_for_pids(folder: Path, count: int = 1) -> list[int]:
    """Wait until so many processes have entered."""
    # Another process has no event to set here.
    while len(entered(folder)) < count:  # noqa: ASYNC110
        await trio.sleep(0.005)
    return entered(folder)


def is_alive(pid: int) -> bool:
    """Whether the process runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"  # a zombie runs no more; it waits to be reaped


async def wait_until_dead(pid: int) -> None:
    """Wait until the process runs no more."""
    while is_alive(pid):  # noqa: ASYNC110  (nor has one that has been killed)
        await trio.sleep(0.005)


def children_of(pid: int) -> list[int]:
    """The processes that any thread of this one has started."""
    lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(each) for each in " ".join(lists).split()]


_T = TypeVar("_T")


async def wait_until(condition: Callable[[], _T]) -> _T:
    """Wait until a condition is true that no event tells; returns its value."""
    while not (found := condition()):  # noqa: ASYNC110 - another process makes it true
        await trio.sleep(0.002)
    return found
