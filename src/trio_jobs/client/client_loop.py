"""`ClientLoop`: the thread in which a blocking client's requests run, on asyncio."""

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from trio_jobs.client.async_client import AsyncClient

_T = TypeVar("_T")

Call = Callable[[AsyncClient], Coroutine[Any, Any, _T]]


class ClientLoop:
    """Runs calls of an `AsyncClient` for threads that wait for them.

    The thread starts at the first call, and ends by `close`, or with this object, or with the
    program. A process that was forked gets a thread, and connections, of its own.

    Args:
        make: Makes the client, in the thread of the first call.
    """

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self._make = make
        # By process id: a forked process keeps those of its parent, unused.
        self._running: dict[int, Running] = {}
        self._locks: dict[int, threading.Lock] = {}
        self._closed = False

    def call(self, function: Call[_T]) -> _T:
        """Await what the function returns, in the loop.

        An exception in this thread, such as KeyboardInterrupt, cancels the call, and does not wait
        for it.

        Raises:
            RuntimeError: The client is closed, or another call of it makes this one.
        """
        return self.started().call(function)

    def started(self) -> "Running":
        """The thread of this process, started if need be.

        Raises:
            RuntimeError: The client is closed.
        """
        pid = os.getpid()
        running = self._running.get(pid)
        if running is None:
            with self._locks.setdefault(pid, threading.Lock()):
                if self._closed:
                    raise RuntimeError("the client is closed")
                running = self._running.get(pid)
                if running is None:
                    running = self._running[pid] = Running(self._make())
                    weakref.finalize(self, running.stop)
        return running

    def close(self) -> None:
        """End the calls of all threads, close the connections, and wait for the thread's end."""
        pid = os.getpid()
        with self._locks.setdefault(pid, threading.Lock()):
            self._closed = True
            running = self._running.get(pid)
        if running is not None:
            running.stop()
            running.join()


class Running:
    """One thread with its loop.

    Args:
        client: Is used in the loop, and closed at its end.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._ended = False
        self._calls: set[Future[Any]] = set()  # those that are not done
        self._tasks: set[asyncio.Task[Any]] = set()  # of calls; for the loop alone
        # A daemon: a program that does not close its client ends nevertheless.
        self._thread = threading.Thread(target=self._run, name="trio_jobs.client", daemon=True)
        self._thread.start()

    def call(self, function: Call[_T]) -> _T:
        """See `ClientLoop.call`."""
        future: Future[_T] = Future()
        try:
            self.start(function, future)
            return self.wait(future)
        finally:
            # A KeyboardInterrupt may come at any moment. This does nothing to one that is done.
            future.cancel()

    def wait(self, future: Future[_T]) -> _T:
        """Wait for the outcome of a call.

        Raises:
            RuntimeError: The client is closed.
        """
        try:
            return future.result()
        except CancelledError:
            # It is the future's, not that of a task.
            raise RuntimeError("the client is closed") from None  # noqa: ASYNC104

    def start(self, function: Call[_T], future: Future[_T]) -> None:
        """Start a call.

        Args:
            function: The call.
            future: Gets its outcome, and cancels it.

        Raises:
            RuntimeError: The client is closed, the call is made in its own thread, or in another
                process.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a call of a blocking client may not make another one")
        if os.getpid() != self._pid:
            raise RuntimeError("this was begun in another process")
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        try:
            self._loop.call_soon_threadsafe(self._begin, function, future)
        except RuntimeError:  # the loop is closed
            raise RuntimeError("the client is closed") from None
        # The loop may have made its last step before: then one of the two threads sees the other's
        # mark, and gives the call up. Nothing else would wake the caller.
        if self._ended:
            future.cancel()

    def stop(self) -> None:
        """Let the thread end; does not wait for that."""
        if os.getpid() == self._pid:
            with suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stopping.set)

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        finally:
            self._ended = True
            for future in tuple(self._calls):
                future.cancel()

    async def _serve(self) -> None:
        try:
            await self._stopping.wait()
            # Not the tasks that these have made, which may not have begun: each call ends its own.
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            # This client has made it, or had it made: it is nobody else's.
            await self._client._http.aclose()

    def _begin(self, function: Call[_T], future: Future[_T]) -> None:
        if self._stopping.is_set():
            future.cancel()
            return

        async def call() -> _T:
            return await function(self._client)  # which may raise an error before it is awaited

        task = self._loop.create_task(call())

        def cancel(_: Future[_T]) -> None:
            if not task.done():
                with suppress(RuntimeError):  # the loop is closed: the task has ended
                    self._loop.call_soon_threadsafe(task.cancel)

        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(partial(_settle, future))
        future.add_done_callback(cancel)


def _settle(future: Future[_T], task: asyncio.Task[_T]) -> None:
    """Give the outcome of a task to the thread that waits for it, if that still does."""
    if task.cancelled():
        future.cancel()
    elif not future.set_running_or_notify_cancel():
        task.exception()  # nobody waits for it
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
