"""Handlers of servers that share a database: copied as ``work.py`` beside the configuration.

Each step of a job is a line of a ledger: its begin, the half of it, and how it ends. The times are
of the clock that all processes of a machine share. Nothing here may import the tests.
"""

import os
import time
from pathlib import Path
from typing import TypedDict

import trio

from trio_jobs import JobContext, Retry

# A file for each process, opened once. One short write to it is whole.
Path("ledger").mkdir(exist_ok=True)
_ledger = os.open(f"ledger/{os.getpid()}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


class Task(TypedDict):
    """A payload: what the client calls the job, and how long it takes."""

    token: str
    seconds: float


async def work(task: Task, job: JobContext) -> str:
    """Succeed."""
    await _run(task, job)
    return task["token"]


async def once(task: Task, job: JobContext) -> str:
    """Succeed; it may not run twice."""
    return await work(task, job)


async def flaky(task: Task, job: JobContext) -> str:
    """Succeed at the second attempt."""
    await _run(task, job)
    if job.attempt == 1:
        raise Retry(after=0.01)
    return task["token"]


async def _run(task: Task, job: JobContext) -> None:
    _note("begin", task, job)
    try:
        await trio.sleep(task["seconds"] / 2)
        _note("half", task, job)
        await trio.sleep(task["seconds"] / 2)
    except trio.Cancelled:
        _note("cut", task, job)
        raise
    _note("end", task, job)


def _note(word: str, task: Task, job: JobContext) -> None:
    line = f"{word} {task['token']} {job.id} {job.attempt} {time.monotonic_ns()}\n"
    os.write(_ledger, line.encode())
