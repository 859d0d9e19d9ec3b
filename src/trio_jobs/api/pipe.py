"""`Pipe`: one client's jobs in, one a line, and one line out for each of them as it ends."""

import logging
from collections.abc import Awaitable, Callable

import trio

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.body_stream import DisconnectedProblem
from trio_jobs.api.current_access import current_access
from trio_jobs.api.event_stream import HEARTBEAT
from trio_jobs.api.pipe_answers import end_line
from trio_jobs.api.pipe_input import End, PipeInput
from trio_jobs.api.pipe_jobs import PipeJobs, PipeOptions
from trio_jobs.api.quart_adapter import LiveResponse, Message
from trio_jobs.api.submission_span import submission_span

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/x-ndjson"


class OpenPipes:
    """Counts the pipes of one application.

    Attributes:
        count: How many are open.
    """

    def __init__(self) -> None:
        self.count = 0


class Pipe(LiveResponse):
    """Admits a client's lines as room appears, and sends each job's end as it comes.

    One task takes lines, another one sends answers. A client that reads nothing makes the pipe
    full: then no line is taken, and TCP makes the client wait.

    If the client has disconnected, the jobs of its lines without a key are cancelled; those with a
    key go on, since the client may come back.

    Args:
        context: Of the API.
        options: What the client asks for.
        pipes: Counts this one while it is open.
    """

    def __init__(self, context: ApiContext, options: PipeOptions, pipes: OpenPipes) -> None:
        super().__init__(MEDIA_TYPE)
        self._pool = context.pool
        self._changes = context.access_changes
        self._pipes = pipes
        # Of the current request, which is gone when `answer` runs.
        self._access = current_access()
        self._span_block = submission_span(context)
        self._jobs = PipeJobs(context.pool, options)
        self._input = PipeInput(context, self._jobs, options.type)
        self._to_client: Callable[[Message], Awaitable[None]]
        self._sent_at = 0.0
        self._whole = trio.CancelScope()
        self._end: End | None = None  # set when no more lines are taken
        self._is_client_gone = False

    async def answer(self, start: Message, send: Callable[[Message], Awaitable[None]]) -> None:
        """Take lines and send answers until each line that was accepted has its answer.

        Cancellation:
            The answer stays truncated, and counts as a disconnect unless the pool is shutting down.
        """
        self._pipes.count += 1
        self._to_client = send
        complete = False
        try:
            with self._span_block as span:
                self._input.span = span
                with self._whole:
                    await self._run(start)
                    complete = True
                if span is not None:
                    span.note_count(self._jobs.accepted)
        finally:
            self._pipes.count -= 1
            self._leave(complete=complete)

    async def _run(self, start: Message) -> None:
        try:
            await self._input.body.open_pipe()
        except OSError:
            self._note_gone()
        await self._send_message(start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_in)
            nursery.start_soon(self._watch_pool)
            nursery.start_soon(self._watch_access)
            await self._send(b"\n")  # some clients wait for the head before they go on
            end = await self._hand_out()
            nursery.cancel_scope.cancel()
        if not self._jobs.is_told:
            end = End("access lost", {})
        line = end_line(end.why, self._input.line, self._jobs.counts, **end.members)
        await self._send(line, last=True)

    def _leave(self, *, complete: bool) -> None:
        """Let go of the jobs whose ends will not be told; cancel those of a lost client."""
        pool = self._pool
        # During a stop, a request that is cut off says nothing about its client; and a pool that
        # has ended keeps its jobs in the file, or has named them.
        is_client_gone = self._is_client_gone or not (complete or pool.admission.closed)
        cancel = is_client_gone and not pool.waiters.over.is_set()
        cancelled, go_on = self._jobs.leave(cancel=cancel)
        if cancelled or go_on:
            fields = {"client": self._input.client, "cancelled": cancelled, "go_on": go_on}
            log.info("pipe_broken", extra=fields)

    # What ends the pipe.

    def _note_gone(self) -> None:
        self._is_client_gone = True
        self._whole.cancel()

    async def _take_in(self) -> None:
        """Take lines until there are no more to take, then wait until the client is gone."""
        try:
            end = await self._input.run()
            await self._jobs.settle()
            self._end = end
            self._jobs.wake.set()
            await self._input.body.wait_disconnected()
        except DisconnectedProblem:
            pass
        self._note_gone()

    async def _watch_pool(self) -> None:
        await self._pool.waiters.over.wait()
        self._input.stopping.cancel()
        self._jobs.wake.set()

    async def _watch_access(self) -> None:
        """End the pipe when its client has lost its access; the jobs go on."""
        if self._changes is not None and self._access.fingerprint:
            await self._changes.wait_lost(self._access)
            self._jobs.is_told = False
            self._input.stopping.cancel()
            self._jobs.wake.set()

    # Answers out.

    async def _hand_out(self) -> End:
        """Send each answer as soon as there is one, until there will be no more; say why."""
        jobs, over = self._jobs, self._pool.waiters.over
        end = None
        while end is None or jobs.some_are_unsent or jobs.are_under_way:
            if jobs.some_are_unsent:
                await self._send(jobs.take_piece())
                jobs.note_sent()
            elif end is None or (jobs.is_told and not over.is_set()):
                await self._wait()
            else:
                jobs.give_up()
            end = self._end
        return end

    async def _wait(self) -> None:
        """Wait for the next answer; send a blank line now and then."""
        jobs = self._jobs
        with trio.CancelScope(deadline=self._sent_at + HEARTBEAT) as waiting:
            await jobs.wake.wait()
            jobs.wake = trio.Event()
        if waiting.cancelled_caught:
            await self._send(b"\n")

    async def _send(self, piece: bytes, *, last: bool = False) -> None:
        message = {"type": "http.response.body", "body": piece, "more_body": not last}
        await self._send_message(message)
        self._sent_at = trio.current_time()

    async def _send_message(self, message: Message) -> None:
        try:
            await self._to_client(message)
        except OSError:  # as ASGI asks of a server whose client has disconnected
            self._note_gone()
            await trio.lowlevel.checkpoint_if_cancelled()
