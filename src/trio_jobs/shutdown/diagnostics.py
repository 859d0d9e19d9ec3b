"""What keeps a process from ending: its tasks and its threads, and where each one stands.

The event loop may go on while a thread reads its tasks, so what is read may be out of date. No
source lines are looked up, because reading files may be what hangs.
"""

import itertools
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, Protocol

import trio

# A line for the log, what stands below it (a stack, or nothing), and the line's fields.
Block = tuple[str, str, Mapping[str, object]]

# An event and its fields.
Line = tuple[str, Mapping[str, object]]

# The innermost frames say where a task or thread hangs.
MAX_FRAMES = 25

# Reading this many takes some 50 ms, and the report has half a second.
MAX_TASKS = 5_000


class JobReport(Protocol):
    """The lines about the unfinished jobs in the report of a process that ends at once.

    The thread that ends the process calls this, or a signal handler: it may read, but not wait.
    """

    def lines(self) -> Iterable[Line]:
        """Name the jobs, in as many lines as the report has time for."""

    def unnamed(self) -> Iterable[Line]:
        """Count the jobs that no written line has named. Called last."""


class NoJobs:
    """The `JobReport` of a process that has no jobs yet."""

    def lines(self) -> Iterable[Line]:
        """See `JobReport.lines`."""
        return ()

    unnamed = lines


def job_blocks(lines: Callable[[], Iterable[Line]]) -> Iterator[Block]:
    """The blocks of a `JobReport`; a failure becomes a line."""
    return blocks_or_failure(lambda: ((event, "", fields) for event, fields in lines()))


def all_blocks(report: JobReport, root: trio.lowlevel.Task | None) -> Iterator[Block]:
    """All that keeps the process from ending: its jobs, then its tasks and its threads.

    Args:
        report: Names the unfinished jobs.
        root: The root task; None before the event loop runs.
    """
    yield from job_blocks(report.lines)
    if root is not None:
        yield from blocks_or_failure(lambda: task_blocks(root))
    yield from blocks_or_failure(asyncio_task_blocks)
    yield from blocks_or_failure(thread_blocks)


def task_blocks(root: trio.lowlevel.Task) -> Iterator[Block]:
    """Each task below ``root`` and its stack; tasks with the same stack share a block."""
    stacks: Counter[tuple[str, str]] = Counter()
    for task in itertools.islice(_tasks_below(root), MAX_TASKS):
        stacks[f"task {task.name}", _stack(task.iter_await_frames())] += 1
    return _blocks(stacks)


def asyncio_task_blocks() -> Iterator[Block]:
    """Each task of each loop of asyncio that runs in a thread, and its stack."""
    stacks: Counter[tuple[str, str]] = Counter()
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        for loop in _running_loops(asyncio.AbstractEventLoop):
            for task in itertools.islice(asyncio.all_tasks(loop), MAX_TASKS):
                stack = _stack(_frames_of(task.get_coro()))
                stacks[f"asyncio task {task.get_name()}", stack] += 1
    return _blocks(stacks)


def thread_blocks() -> Iterator[Block]:
    """Each Python thread except the calling one, and its stack."""
    names = {
        thread.ident: f"thread {thread.name}" + (" (daemon)" if thread.daemon else "")
        for thread in threading.enumerate()
    }
    stacks: Counter[tuple[str, str]] = Counter()
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            frames = reversed(list(traceback.walk_stack(frame)))
            stacks[names.get(ident, f"thread {ident}"), _stack(frames)] += 1
    return _blocks(stacks)


def plain(line: str, below: str, fields: Mapping[str, object]) -> bytes:
    """A block of a report as lines of text."""
    line = " ".join([line, *(f"{name}={value}" for name, value in fields.items())])
    text = "\n  ".join([line, *below.splitlines()])
    return f"{text}\n".encode(errors="backslashreplace")


def blocks_or_failure(blocks: Callable[[], Iterable[Block]]) -> Iterator[Block]:
    """The blocks; a failure becomes a line, so that the next part of a report follows."""
    try:
        yield from blocks()
    except Exception as error:  # noqa: BLE001 - other threads change what is read
        yield f"and more that could not be read: {type(error).__name__}", "", {}


def _running_loops(kind: type[Any]) -> Iterator[Any]:
    """The loops of asyncio that run in a thread, found in the threads' frames.

    asyncio has no list of all loops.
    """
    seen = set()
    for frame in sys._current_frames().values():
        for each, _ in traceback.walk_stack(frame):
            # asyncio's loop runs in a method of its own. uvloop has no frame; its caller has it.
            found = each.f_locals.get("self")
            for loop in (found, getattr(found, "loop", None)):
                if isinstance(loop, kind) and id(loop) not in seen:
                    seen.add(id(loop))
                    yield loop


def _frames_of(awaited: Any) -> Iterator[tuple[FrameType, int]]:  # noqa: ANN401 - any awaitable
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield frame, frame.f_lineno
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def _tasks_below(root: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    """Parents first: with very many tasks, the pool comes before its handlers' tasks."""
    parents = deque([root])
    while parents:
        # child_nurseries is a copy, child_tasks a frozenset: neither changes while it is read.
        for nursery in parents.popleft().child_nurseries:
            yield from nursery.child_tasks
            parents.extend(nursery.child_tasks)


def _stack(frames: Iterable[tuple[FrameType, int]]) -> str:
    return "\n".join(
        f'File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_qualname}'
        for frame, line in deque(frames, maxlen=MAX_FRAMES)
    )


def _blocks(stacks: Counter[tuple[str, str]]) -> Iterator[Block]:
    for (name, stack), count in stacks.items():
        yield (name if count == 1 else f"{name} (and {count - 1} more like it)"), stack, {}
