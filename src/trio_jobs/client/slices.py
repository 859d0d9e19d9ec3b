"""`Slices`: sends lines to ``POST /jobs/pipe`` in short requests, and brings every answer once.

Rule: a line is sent again, with its key, until it is answered; so its job runs once while the
server remembers the key. Who pulls the answers sets the pace: a line counts from its pull to the
release of its answer, and no more than ``in_flight`` of them do.
"""

import math
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from trio_jobs.client.bell import Bell
from trio_jobs.client.line_source import LineSource
from trio_jobs.client.patience import Patience
from trio_jobs.client.pipe_lines import Line, LineAnswer
from trio_jobs.client.slice import OpenPipe, Slice

_Item = TypeVar("_Item")

# Of one request. A server reads a body of this size before it answers, and proxies pass it on.
_MAX_LINES = 200
_MAX_BYTES = 256 * 1024

# So many requests are open while the server keeps up. A request stays open for its last job, so
# slow jobs may take all of them; more are opened then, up to the second number, which is small
# beside the number of pipes that a server takes.
_USUALLY_OPEN = 4
_MOST_OPEN = 16

# Seconds that lines wait for company before they are sent beside one of the usual requests, or
# beside all of them: a request costs a millisecond.
_SOON = 0.005
_LATER = 0.1

# Seconds. If a request takes no longer, the lines of the next one may all be in the server at a
# time, which costs it less; jobs of others wait behind them for about as long. Behind slower jobs
# they would wait too long: then the server's own window holds, which is a few jobs for each worker.
_QUICK = 0.1


class Slices:
    """Lines on their way to a server, and their answers on their way back.

    One task sends while another one takes::

        slices = Slices(open_pipe, lambda: Patience(60.0), in_flight=200)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slices.run, lines)
            while answers := await slices.take():
                ...
                slices.release(len(answers))

    Args:
        open_pipe: Opens a request.
        make_patience: The patience of one request and its repetitions.
        in_flight: How many lines are pulled and not released at the most.

    Attributes:
        in_flight: As given.
        failing_since: When the requests began to fail, by the clock of the event loop; None while
            answers arrive.
    """

    def __init__(
        self,
        open_pipe: OpenPipe,
        make_patience: Callable[[], Patience],
        *,
        in_flight: int,
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, got {in_flight!r}")
        self._open_pipe = open_pipe
        self._make_patience = make_patience
        self.in_flight = in_flight
        # Requests are half answered on average: so many fill the usual ones.
        self._size = max(1, min(_MAX_LINES, in_flight // 2))
        self.failing_since: float | None = None

        self._room = in_flight  # lines that may be pulled
        self._pulling = True  # until the source has ended
        self._pending: deque[Line] = deque()  # pulled, not sent
        self._outstanding = 0  # sent, not answered
        self._open: set[Slice] = set()
        self._company = math.inf  # for how long pending lines wait for others
        self._answers: list[LineAnswer] = []  # not taken
        self._is_quick = False  # the last request
        self._complete = False
        self._ended = False
        self._error: BaseException | None = None
        self._pull_scope = anyio.CancelScope()
        # Each has one waiting task: the one that pulls, the one that sends, the caller's.
        self._room_made = Bell()
        self._work_made = Bell()
        self._answered = Bell()

    @property
    def outstanding(self) -> int:
        """How many lines the server has, as far as is known."""
        return self._outstanding

    async def run(self, lines: Iterable[Line] | AsyncIterable[Line]) -> None:
        """Send all lines; returns when each is answered, or one of them never will be.

        Args:
            lines: Pulled one at a time, as there is room. They must not block the event loop. An
                async generator is closed at the end.

        Cancellation:
            Closes the connections. What the server has goes on there.
        """
        await self.run_source(LineSource(lines, lambda line: line))

    async def run_source(self, source: LineSource[_Item]) -> None:
        """As `run`, from a source."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._guard, tasks, self._pull, source)
                tasks.start_soon(self._guard, tasks, self._send, tasks)
            self._complete = self._error is None
        finally:
            self._ended = True
            self._answered.ring()

    async def take(self) -> list[LineAnswer]:
        """Wait for answers.

        Returns:
            Those that are there, at least one, in the order of their arrival; none at the end.

        Raises:
            RefusedError: The server refuses the requests: 401, 403, 404 from a server without
                this route.
            ServerGoneError: See there.
            BaseException: What the iteration of the lines has raised.

        Checkpoints:
            Unless answers are there.
        """
        while not self._answers:
            if self._error is not None:
                raise self._error
            if self._complete:
                return []
            if self._ended:
                raise RuntimeError("the task that sends the lines was cancelled")
            await self._answered.wait()
        answers, self._answers = self._answers, []
        return answers

    def release(self, count: int) -> None:
        """So many of the answers that were taken are done with; as many lines may be pulled."""
        self._room += count
        # A few at a time: a task switch for each line costs more than the rest of it.
        if self._room > self.in_flight // 16:
            self._room_made.ring()

    def stop(self) -> None:
        """Pull and send no more lines; `run` ends when those that were sent are answered."""
        self._pull_scope.cancel()
        self._pending.clear()
        self._work_made.ring()

    def cancel(self) -> None:
        """As `stop`, and have the jobs of the lines that were sent cancelled.

        Each is answered: as ``cancelled``, or as it has ended before.
        """
        self.stop()
        for each in self._open:
            each.cancel()

    async def _guard(
        self, tasks: TaskGroup, function: Callable[..., Awaitable[None]], *args: object
    ) -> None:
        """Keep an error for `take`, which raises it out of no group, and end the other tasks."""
        try:
            await function(*args)
        except BaseException as error:  # noqa: ASYNC103 - `take` raises it
            if isinstance(error, anyio.get_cancelled_exc_class()) and _is_cancelled():
                raise
            if self._error is None:
                self._error = error
            tasks.cancel_scope.cancel()

    async def _pull(self, source: LineSource[_Item]) -> None:
        """Pull lines while there is room; close the source at the end."""
        try:
            with self._pull_scope:
                await self._pull_all(source)
        finally:
            await source.aclose()
        self._pulling = False
        self._work_made.ring()

    async def _pull_all(self, source: LineSource[_Item]) -> None:
        pulled = 0
        while True:
            while self._room <= 0:
                await self._room_made.wait()
            lines = await source.pull(min(self._room, self._size))
            if not lines or self._pull_scope.cancel_called:
                return
            self._room -= len(lines)
            self._pending += lines
            self._look()
            pulled += len(lines)
            if pulled >= self._size:  # a source may have no checkpoints
                pulled = 0
                await anyio.lowlevel.checkpoint()

    async def _send(self, tasks: TaskGroup) -> None:
        """Send lines that were pulled, until all are answered."""
        begun: float | None = None  # when the pending lines began to wait for company
        while self._pulling or self._pending or self._open:
            now = anyio.current_time()
            if not self._pending:
                begun = None
            elif begun is None:
                begun = now
            self._company = self._wanted_company()
            due = math.inf if begun is None else begun + self._company
            if now >= due:
                begun = None
                self._start_slice(tasks)
                continue
            with anyio.CancelScope(deadline=due):
                await self._work_made.wait()

    def _look(self) -> None:
        """Wake the task that sends, if it has something to do: most lines need no task switch."""
        if self._wanted_company() < self._company:
            self._work_made.ring()

    def _wanted_company(self) -> float:
        """For how long pending lines wait for others; inf until a request has ended."""
        count, requests = len(self._pending), len(self._open)
        if not count or requests >= _MOST_OPEN:
            return math.inf
        if not requests or count >= self._size:
            return 0.0
        if requests < _USUALLY_OPEN:
            return _SOON
        # The server may have room for more than what slow jobs have left in the open requests.
        return _LATER if 2 * self._outstanding <= self.in_flight else math.inf

    def _start_slice(self, tasks: TaskGroup) -> None:
        lines: list[Line] = []
        size = 0
        while self._pending and len(lines) < self._size:
            size += len(self._pending[0].text)
            if lines and size > _MAX_BYTES:
                break
            lines.append(self._pending.popleft())
        self._outstanding += len(lines)
        each = Slice(
            lines,
            open_pipe=self._open_pipe,
            all_at_once=self._is_quick,
            patience=self._make_patience(),
            on_answers=self._take_in,
            on_failure=self._note_failure,
        )
        self._open.add(each)
        tasks.start_soon(self._guard, tasks, self._run_slice, each)

    async def _run_slice(self, each: Slice) -> None:
        begun = anyio.current_time()
        await each.run()
        self._is_quick = anyio.current_time() - begun < _QUICK
        self._open.discard(each)
        self._work_made.ring()

    def _take_in(self, answers: list[LineAnswer]) -> None:
        self.failing_since = None
        self._outstanding -= len(answers)
        self._answers += answers
        for each in self._open:
            each.note_others()
        self._answered.ring()
        self._look()

    def _note_failure(self) -> None:
        if self.failing_since is None:
            self.failing_since = anyio.current_time()


def _is_cancelled() -> bool:
    """Whether this task is being cancelled; a source may raise such an error by itself."""
    return anyio.current_effective_deadline() == -math.inf
