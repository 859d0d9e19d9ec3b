"""`Places`: where handlers run: on Trio, on asyncio, in threads, in processes; and their lifespans.

A task of its own holds each place open, and the workers run in other tasks: if they ran inside of a
lifespan, a failure in a nursery of that lifespan would cancel them.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio

from trio_jobs.error_text import Failure
from trio_jobs.handlers.entered_lifespan import enter_in_thread, enter_on_trio
from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.held_place import HeldPlace
from trio_jobs.handlers.importing import HandlerError
from trio_jobs.handlers.opening_errors import StartStoppedError
from trio_jobs.handlers.process_pool import ProcessPool
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.handlers.running_job import RunningJob
from trio_jobs.handlers.start_shortage import StartShortage
from trio_jobs.handlers.thread_runner import ThreadRunner

if TYPE_CHECKING:  # a program whose handlers need no asyncio does not import it
    from trio_jobs.handlers.asyncio_runner import AsyncioRunner, LoopChoice

# Descriptors of asyncio's loop: the selector, and two to wake it.
_LOOP_DESCRIPTORS = 3

# Seconds: even if HTTP gives its clients no time at the end, a lifespan gets some to close.
_LEAST_CLOSING_TIME = 0.2


class Runner(Protocol):
    """Runs handlers in one place."""

    async def run(
        self, handler: Handler, running: RunningJob, *, max_result_bytes: int
    ) -> bytes | Failure:
        """Run a job: to its result as JSON, or to the description of the handler's exception."""


class Places:
    """The places of one pool.

    Args:
        registry: The handlers and their lifespans.
        workers: How many jobs run at the same time, until `limit_threads` is called.
        processes: How many child processes there are at the most; None for one per processor.
        asyncio_loop: The loop for handlers on asyncio.
        states: What the program has opened itself, by place; such a place has no lifespan.
        shortage: Holds the jobs that cannot begin.
        folder: See `ProcessPool`.

    Attributes:
        processes: None if no handler runs in a process.
        asyncio: None if no handler runs on asyncio.
        states: By place, what its lifespan yields; that of a process is in the process.
        limit_threads: See `ThreadRunner.limit`.
        faulty: Whether a place has failed, or has not closed in time.

    Raises:
        LoopStartError: The loop is uvloop, which is not installed.
    """

    def __init__(
        self,
        registry: HandlerRegistry,
        *,
        workers: int,
        processes: int | None = None,
        asyncio_loop: "LoopChoice" = "asyncio",
        states: Mapping[Run, object] | None = None,
        shortage: StartShortage | None = None,
        folder: int | None = None,
    ) -> None:
        shortage = shortage or StartShortage()
        self._lifespans = {each.place: each for each in registry.lifespans}
        self.states: dict[Run, object] = {**(states or {})}
        self.faulty = False
        self.processes: ProcessPool | None = None
        self.asyncio: AsyncioRunner | None = None
        threads = ThreadRunner(workers, shortage, self.states)
        self.limit_threads = threads.limit
        self.runners: dict[Run, Runner] = {Run.THREAD: threads}
        if functions := registry.process_functions:
            lifespan = self._lifespans.get(Run.PROCESS)
            self.processes = self.runners[Run.PROCESS] = ProcessPool(
                processes,
                functions=functions,
                lifespan=None if lifespan is None else lifespan.name,
                shortage=shortage,
                folder=folder,
            )
        if Run.ASYNCIO in registry.places:
            from trio_jobs.handlers import asyncio_runner

            self.asyncio = asyncio_runner.AsyncioRunner(asyncio_loop, self.states)
            self.runners[Run.ASYNCIO] = self.asyncio

    @property
    def max_descriptors(self) -> int:
        """How many file descriptors the places take at most, without those of user code."""
        of_processes = 0 if self.processes is None else self.processes.max_descriptors
        return of_processes + (0 if self.asyncio is None else _LOOP_DESCRIPTORS)

    async def run(
        self, handler: Handler, running: RunningJob, *, max_result_bytes: int
    ) -> bytes | Failure:
        """Run a job in the handler's place, which is not Trio; see `Runner`."""
        runner = self.runners[handler.run]
        return await runner.run(handler, running, max_result_bytes=max_result_bytes)

    @asynccontextmanager
    async def open(
        self,
        opening: trio.CancelScope | None = None,
        closing: trio.Event | None = None,
        failed: Callable[[BaseException], object] = lambda _: None,
        *,
        seconds: float = 2.0,
    ) -> AsyncIterator[None]:
        """A block in which the places are open. The caller ends all jobs before it leaves it.

        The places open one after the other, and close all at once. Each closes in bounded time,
        also if the caller is cancelled.

        Args:
            opening: The scope in which the lifespans open. If it is cancelled meanwhile, the block
                is not entered.
            closing: The places close when this is set, or the block is left.
            failed: Called if a lifespan fails or ends within the block.
            seconds: How long a lifespan may take to close; a shorter time counts as 0.2 s.

        Raises:
            LifespanError: A lifespan has not opened. Those that had opened have closed again.
            LoopStartError: asyncio's loop cannot be started.
            StartStoppedError: ``opening`` was cancelled while a lifespan opened.
        """
        closing = trio.Event() if closing is None else closing
        seconds = max(seconds, _LEAST_CLOSING_TIME)
        if self.processes is not None and Run.PROCESS in self._lifespans:
            self.processes.closing_time = max(seconds, self.processes.closing_time)
        opening = trio.CancelScope() if opening is None else opening
        held = [*self._held_places()]
        raised: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._limit, held, closing, seconds)
            try:
                start = partial(self._start, nursery, closing=closing, failed=failed)
                await start([each for each in held if each.lifespan is None])
                with opening:
                    await start([each for each in held if each.lifespan is not None])
                if opening.cancelled_caught:
                    raise StartStoppedError("a lifespan has not opened before the stop")  # noqa: TRY301
                yield
            except BaseException as error:  # noqa: ASYNC103, BLE001 - raised below
                raised = error
            finally:
                closing.set()
        self.faulty = (
            any(each.faulty for each in held)
            or (self.asyncio is not None and self.asyncio.left_behind)
            or (self.processes is not None and self.processes.has_cut_lifespans)
        )
        # Inside of the nursery the error would cancel the places that close, and come in a group.
        if raised is not None:
            raise raised

    def _held_places(self) -> Iterator[HeldPlace]:
        """Each place that there is to open, in order."""
        if self.asyncio is not None:
            lifespan = self._lifespans.get(Run.ASYNCIO)
            yield HeldPlace(Run.ASYNCIO, self.asyncio.open(lifespan), lifespan)
        if (lifespan := self._lifespans.get(Run.TRIO)) is not None:
            yield HeldPlace(Run.TRIO, enter_on_trio(lifespan), lifespan)
        if (lifespan := self._lifespans.get(Run.THREAD)) is not None:
            yield HeldPlace(Run.THREAD, enter_in_thread(lifespan), lifespan)
        if self.processes is not None:  # each child has its lifespan in itself
            yield HeldPlace(Run.PROCESS, self.processes)

    async def _start(
        self,
        nursery: trio.Nursery,
        places: Iterable[HeldPlace],
        *,
        closing: trio.Event,
        failed: Callable[[BaseException], object],
    ) -> None:
        for each in places:
            await nursery.start(each.hold, closing, failed)
            if each.not_opened is not None:
                raise each.not_opened
            if each.lifespan is not None:
                self.states[each.place] = each.state

    async def _limit(self, held: Iterable[HeldPlace], closing: trio.Event, seconds: float) -> None:
        """Cancel each lifespan that has not closed in time; what else closes bounds itself."""
        with trio.CancelScope(shield=True):  # the block sets the event at its end
            await closing.wait()
        for each in held:
            if each.lifespan is not None:
                each.limit(seconds)


def read_states(
    states: Mapping[str, object] | None, registry: HandlerRegistry, *, async_handlers: str
) -> Mapping[Run, object]:
    """The states that a program has opened itself, by place.

    Args:
        states: By the names of the places.
        registry: The handlers and their lifespans.
        async_handlers: The place that ``"async"`` stands for.

    Raises:
        HandlerError: There is no such place, or the place has a lifespan.
    """
    places = {"async": Run(async_handlers), **{str(each): each for each in Run}}
    found: dict[Run, object] = {}
    for name, state in (states or {}).items():
        place = places.get(name)
        if place is None or place is Run.PROCESS:
            raise HandlerError(f"there is no state for {name!r}: only a lifespan opens one there")
        if place in found or any(each.place is place for each in registry.lifespans):
            raise HandlerError(f"there are two states for the place of {name!r}")
        found[place] = state
    return found
