"""Handlers that keep a ledger outside of the server: copied beside its ``config.toml``.

Each writes a line when it begins and one when it ends, with the token that the client chose and,
where a handler is told, the job's id, so that what has really run can be compared with what clients
were told and what the log says. Nothing here may import the tests.
"""

import contextlib
import os
import time
from typing import TypedDict

import trio

from trio_jobs import JobContext

# Opened once: a job must not need a descriptor when there are none.
_ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


class Task(TypedDict):
    """A payload: what the client calls the job, and how long it takes."""

    token: str
    seconds: float


def _note(word: str, task: Task, *job_id: str) -> None:
    # One short write to a file opened for appending: whole, also from several processes.
    os.write(_ledger, f"{' '.join([word, task['token'], *job_id])}\n".encode())


async def work(task: Task, job: JobContext) -> str:
    """Succeed."""
    _note("begin", task, job.id)
    await trio.sleep(task["seconds"])
    _note("end", task, job.id)
    return task["token"]


async def fail(task: Task) -> None:
    """Fail, with an exception that would end a server that is not careful."""
    _note("begin", task)
    await trio.sleep(task["seconds"])
    _note("end", task)
    raise SystemExit(f"job {task['token']} fails")


async def endless(task: Task) -> None:
    """Go on until it is cut off."""
    _note("begin", task)
    await trio.sleep_forever()


def in_thread(task: Task) -> str:
    """Succeed, in a thread."""
    _note("begin", task)
    time.sleep(task["seconds"])
    _note("return", task)  # what becomes of it, the server decides
    return task["token"]


def in_process(task: Task) -> str:
    """Succeed, in a process."""
    return in_thread(task)


async def hoard(task: Task) -> int:
    """Leave no descriptor to anybody, for a while; how many there were."""
    _note("begin", task)
    taken = _take_descriptors()
    try:
        await trio.sleep(task["seconds"])
    finally:
        for descriptor in taken:
            os.close(descriptor)
    _note("end", task)
    return len(taken)


def _take_descriptors() -> list[int]:
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(_ledger))
    return taken


async def census(_: object) -> dict[str, int]:
    """Count the tasks of the whole program, once the client's request waits for this job."""
    await trio.sleep(0.1)
    root = trio.lowlevel.current_root_task()
    assert root is not None
    tasks = [root]
    for task in tasks:  # grows while it is walked
        for nursery in task.child_nurseries:
            tasks.extend(nursery.child_tasks)
    return {"tasks": len(tasks)}
