"""`PipeInput`: takes the lines of one pipe, and says why it takes no more."""

import logging
from typing import TYPE_CHECKING, NamedTuple

import trio

from trio_jobs.api.answers import problem_of
from trio_jobs.api.api_context import ApiContext, SubmissionSpan
from trio_jobs.api.body_stream import BodyStream, DisconnectedProblem
from trio_jobs.api.current_access import current_access, current_client
from trio_jobs.api.line_admission import LineAdmission
from trio_jobs.api.ndjson import WHITE_SPACE, Lines
from trio_jobs.api.pipe_answers import InputLine, is_cancel, key_in
from trio_jobs.api.pipe_jobs import PipeJobs
from trio_jobs.api.quart_adapter import current_request
from trio_jobs.api.submission_json import ITEM_COST, TURN_COST, parse_item
from trio_jobs.api.submission_span import with_span
from trio_jobs.pool.idempotency import KeyReusedError
from trio_jobs.pool.refusals import (
    AdmissionError,
    IntakePausedError,
    QueueFullError,
    ShuttingDownError,
    StoreTimeoutError,
)
from trio_jobs.problem_details import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_jobs.pool.job_spec import JobSpec

log = logging.getLogger(__name__)


class End(NamedTuple):
    """Why a pipe takes no more lines, in a few words for its last line, and what that says more."""

    why: str
    members: dict[str, object]


class _TooLongError(Exception):
    """A line is too long."""


class PipeInput:
    """The lines of the current request's body.

    Args:
        context: Of the API.
        jobs: Where the lines go.
        type: The type of lines that have none; None if each must have one.

    Attributes:
        body: The body.
        client: The client's address, for the log.
        line: The number of the last line that was looked at.
        span: The span of the request; None without tracing.
        stopping: Its cancellation ends the input, as a shutdown does.
    """

    def __init__(self, context: ApiContext, jobs: PipeJobs, type: str | None) -> None:  # noqa: A002
        self._idle_timeout = context.http.stream_idle_timeout
        self.body = BodyStream(idle_timeout=self._idle_timeout, may_half_close=True)
        self.client = current_client()
        self.line = 0
        self.span: SubmissionSpan | None = None
        self.stopping = trio.CancelScope()
        self._context = context
        self._pool = context.pool
        self._jobs = jobs
        self._type = type
        self._submitted_by = current_access().name
        self._max_line_bytes = context.http.max_body_bytes
        length = current_request().content_length
        self._is_slice = length is not None and length <= self._max_line_bytes
        self._admission = LineAdmission(context.pool, self.body.watched, jobs.note_taken)
        self._ready: list[JobSpec] = []  # parsed, not yet admitted

    async def run(self) -> End:
        """Take lines until there are no more to take, and say why.

        Raises:
            DisconnectedProblem: The client has disconnected.

        Cancellation:
            The jobs that are in stay in, and ``jobs`` has them.
        """
        capacity, intake = self._pool.capacity, self._pool.admission.intake
        try:
            with self.stopping, capacity.cancel_on_close(), intake.cancel_on_pause():
                await self._read_all()
                return End("input", {})
        except _TooLongError:
            return End("too long", {"line": self.line, "limit": self._max_line_bytes})
        except (AdmissionError, StoreTimeoutError) as error:
            return self._end_of(error)
        except DisconnectedProblem:
            raise
        except Problem as problem:
            why = "idle" if problem.status == 408 else "invalid body"
            return End(why, {"detail": problem.detail})
        except Exception as error:  # the boundary around one request
            log.error("pipe_failed", exc_info=error, extra={"client": self.client})
            return End("internal error", {})
        return self._end_of(ShuttingDownError())

    def _end_of(self, error: AdmissionError | StoreTimeoutError) -> End:
        why = "store failing"
        if isinstance(error, ShuttingDownError):
            why = "shutting down"
        elif isinstance(error, IntakePausedError):
            why = "paused"
        problem = problem_of(error, self._context)
        return End(why, {"retry_after": problem.members["retry_after"]})

    async def _read_all(self) -> None:
        lines = Lines()
        while piece := await self._read():
            await self._take(lines.feed(piece))
            if lines.pending_bytes > self._max_line_bytes + len(b"\r"):
                self.line += 1
                raise _TooLongError
        if rest := lines.last():
            await self._take([rest])

    async def _read(self) -> bytes:
        """The next piece of the body; empty at its end.

        A body with a short ``Content-Length`` is one piece: its client may not read before it has
        sent all.
        """
        piece = await self._read_some()
        if not self._is_slice:
            return piece
        pieces = [piece]
        while piece:
            pieces.append(piece := await self._read_some())
        return b"".join(pieces)

    async def _read_some(self) -> bytes:
        piece: bytes | None = None
        while piece is None:
            try:
                piece = await self.body.read()
            except Problem as problem:
                if problem.status != 408 or not self._is_waiting():
                    raise
        return piece

    def _is_waiting(self) -> bool:
        """Whether the client waits for answers, or has got one lately: then it is not idle."""
        quiet = trio.current_time() - self._jobs.sent_at
        return self._jobs.in_flight > 0 or quiet < self._idle_timeout

    async def _take(self, lines: list[bytes]) -> None:
        cost = 0
        for line in lines:
            self.line += 1
            if text := line.strip(WHITE_SPACE):
                if is_cancel(text):
                    await self._admit()
                    await self._jobs.cancel()
                else:
                    await self._take_line(text)
            cost += len(line) + ITEM_COST
            if cost > TURN_COST:
                cost = 0
                await self._admit()
                await trio.lowlevel.checkpoint()
        await self._admit()

    async def _take_line(self, text: bytes) -> None:
        jobs, pool, line = self._jobs, self._pool, self.line
        if len(text) > self._max_line_bytes:
            await self._admit()
            raise _TooLongError
        if jobs.is_full:
            await self._admit()
            await self._wait_for_room()
        jobs.in_flight += 1
        try:
            spec = parse_item(
                text,
                pool.handlers,
                pool.now,
                submitted_by=self._submitted_by,
                default_type=self._type,
            )
        except Problem as problem:
            jobs.refuse(InputLine(line, key_in(text)), "Refused", problem.detail)
            return
        self._ready.append(with_span(spec, self.span))
        jobs.input_lines.append(InputLine(line, None if spec.key is None else spec.key.text))

    async def _wait_for_room(self) -> None:
        jobs, is_there = self._jobs, False
        async with self.body.watched():
            while jobs.is_full:
                jobs.room = trio.Event()
                await jobs.room.wait()
            is_there = True
        if not is_there:
            raise DisconnectedProblem

    async def _admit(self) -> None:
        """Admit what was parsed, or refuse it."""
        specs: Sequence[JobSpec] = self._ready
        self._ready = []
        while specs:
            try:
                await self._admission.admit(specs)
                specs = ()
            except (KeyReusedError, QueueFullError) as error:
                self._refuse_first(error)
                specs = self._admission.left[1:]
            if not specs:  # also if the last line is refused: a job before it may have ended
                specs = await self._jobs.check_found()

    def _refuse_first(self, error: KeyReusedError | QueueFullError) -> None:
        kind, retry_after = "KeyReused", None
        if isinstance(error, QueueFullError):
            kind, retry_after = "QueueFull", error.retry_after
        problem = problem_of(error, self._context)
        self._jobs.refuse(self._jobs.input_lines.popleft(), kind, problem.detail, retry_after)
