"""`Pipe`: one client's jobs in, one a line, and one line out for each of them as it ends."""

import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import trio

from trio_jobs.api.answers import problem_of
from trio_jobs.api.api_context import ApiContext, SubmissionSpan
from trio_jobs.api.body_stream import BodyStream, DisconnectedProblem
from trio_jobs.api.current_access import current_access, current_client
from trio_jobs.api.event_stream import HEARTBEAT
from trio_jobs.api.line_admission import LineAdmission
from trio_jobs.api.ndjson import WHITE_SPACE, Lines
from trio_jobs.api.pipe_answers import (
    NOT_COMPLETED,
    REFUSED,
    Place,
    completed_line,
    end_line,
    incomplete_line,
    is_cancel,
    key_in,
    refused_line,
)
from trio_jobs.api.quart_adapter import LiveResponse, Message, current_request
from trio_jobs.api.submission_json import ITEM_COST, TURN_COST, parse_item
from trio_jobs.api.submission_span import submission_span, with_span
from trio_jobs.job import Job, JobStatus
from trio_jobs.pool.cancels import STRIDE, cancel_nowait
from trio_jobs.pool.idempotency import KeyReusedError
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import (
    AdmissionError,
    IntakePausedError,
    QueueFullError,
    ShuttingDownError,
    StoreTimeoutError,
)
from trio_jobs.pool.store import JobNotFoundError
from trio_jobs.problem_details import Problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/x-ndjson"

# Bytes of answers that are not sent. Beyond it a pipe takes no line.
MAX_UNSENT = 1_048_576
# Answers are sent in pieces of about so many bytes.
_PIECE = 65_536
# Bytes of an answer beside its result.
_ANSWER_BYTES = 100
# The weight of the last answer in the typical size of answers.
_WEIGHT = 0.1

# Has nginx pass each piece on at once.
_HEADERS = {"X-Accel-Buffering": "no"}


class PipeOptions(NamedTuple):
    """What a client asks for.

    Attributes:
        type: The type of lines that have none; None if each must have one.
        window: So many lines may be in, or have unsent answers.
        least_window: So many, at the most ``window``, however large the answers are.
    """

    type: str | None
    window: int
    least_window: int


class OpenPipes:
    """Counts the pipes of one application.

    Attributes:
        count: How many are open.
    """

    def __init__(self) -> None:
        self.count = 0


class _End(NamedTuple):
    why: str
    members: dict[str, object]


class _TooLongError(Exception):
    """A line is too long."""


# An answer that is not sent: a job that has ended, or whose end is not told (None), with its id;
# or the line itself.
_Unsent = tuple[Place, str, Job | None, bool] | bytes


class Pipe(LiveResponse):
    """Admits a client's lines as room appears, and sends each job's end as it comes.

    One task reads and admits, another one sends. The step that shows a job as completed hands it to
    the pipe: the store may drop it afterwards. A line is taken when fewer than ``window`` lines are
    in, or have unsent answers: so a client that reads nothing costs bounded memory, and TCP makes
    it wait.

    If the client has disconnected, the jobs of its lines without a key are cancelled; those with a
    key go on, since the client may come back.

    Args:
        context: Of the API.
        options: What the client asks for.
        pipes: Counts this one while it is open.
    """

    def __init__(self, context: ApiContext, options: PipeOptions, pipes: OpenPipes) -> None:
        super().__init__(content_type=MEDIA_TYPE, headers=_HEADERS)
        del self.headers["Content-Length"]
        self._context = context
        self._pool = context.pool
        self._options = options
        self._pipes = pipes
        # Of the current request, which is gone when `answer` runs.
        self._access = current_access()
        self._client = current_client()
        self._length = current_request().content_length
        self._max_line_bytes = context.http.max_body_bytes
        self._body = BodyStream(idle_timeout=context.http.stream_idle_timeout, may_half_close=True)
        self._span_block = submission_span(context)
        self._span: SubmissionSpan | None = None
        self._admission = LineAdmission(context.pool, self._body.watched, self._note_taken)
        self._to_client: Callable[[Message], Awaitable[None]]
        self._sent_at = 0.0

        self._line = 0
        self._accepted = 0
        self._ready: list[JobSpec] = []  # parsed, not yet admitted
        self._places: deque[Place] = deque()  # theirs
        self._to_check: list[
            tuple[str, JobSpec]
        ] = []  # found by their keys, perhaps as they were a moment ago
        self._outstanding: dict[str, tuple[tuple[Place, bool], ...]] = {}  # by job id
        self._unsent: deque[_Unsent] = deque()
        self._unsent_bytes = 0
        self._typical_bytes = 0.0
        self._in_flight = 0  # lines that are taken, and whose answers are not sent
        self._counts: Counter[str] = Counter()

        self._reading = trio.CancelScope()
        self._all = trio.CancelScope()
        self._end: _End | None = None  # set when no more lines are taken
        self._access_lost = False
        self._client_gone = False
        self._wake = trio.Event()  # there is something to send
        self._room = trio.Event()  # answers have been sent

    async def answer(self, start: Message, send: Callable[[Message], Awaitable[None]]) -> None:
        """Take lines and send answers until each line that was accepted has its answer.

        Cancellation:
            The answer stays truncated, and counts as a disconnect unless the pool is shutting down.
        """
        self._pipes.count += 1
        self._to_client = send
        complete = False
        try:
            with self._span_block as self._span:
                with self._all:
                    await self._run(start)
                    complete = True
                if self._span is not None:
                    self._span.note_count(self._accepted)
        finally:
            self._pipes.count -= 1
            self._leave(complete=complete)

    async def _run(self, start: Message) -> None:
        try:
            await self._body.open_pipe()
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
        if self._access_lost:
            end = _End("access lost", {})
        line = end_line(end.why, self._line, self._counts, **end.members)
        await self._send(line, last=True)

    def _leave(self, *, complete: bool) -> None:
        """Let go of the jobs whose ends will not be told; cancel those of a lost client."""
        pool = self._pool
        # A pool that has ended keeps them in its file, or has named them: its clients are not gone.
        stays = complete or pool.waiters.over.is_set()
        stays = stays or (pool.admission.closed and not self._client_gone)
        cancelled = 0
        for job_id, places in self._outstanding.items():
            pool.waiters.forget_call(job_id, self._note_completed)
            if not stays and all(place.key is None for place, _ in places):
                cancelled += cancel_nowait(pool, job_id)
        if self._outstanding:
            left = len(self._outstanding) - cancelled
            fields = {"client": self._client, "cancelled": cancelled, "go_on": left}
            log.info("pipe_broken", extra=fields)
        self._outstanding.clear()

    # What ends the pipe.

    def _note_gone(self) -> None:
        self._client_gone = True
        self._all.cancel()

    async def _watch_pool(self) -> None:
        await self._pool.waiters.over.wait()
        self._reading.cancel()
        self._wake.set()

    async def _watch_access(self) -> None:
        changes = self._context.access_changes
        if changes is not None and self._access.fingerprint:
            await changes.wait_lost(self._access)
            self._access_lost = True
            self._reading.cancel()
            self._wake.set()

    # Lines in.

    async def _take_in(self) -> None:
        """Take lines until there are no more to take, then wait until the client is gone."""
        try:
            self._end = await self._read_to_end()
        except DisconnectedProblem:
            self._note_gone()
            return
        self._wake.set()
        await self._body.wait_disconnected()
        self._note_gone()

    async def _read_to_end(self) -> _End:
        """Take lines, and say why no more are taken.

        Raises:
            DisconnectedProblem: The client has disconnected.
        """
        pool, context = self._pool, self._context
        try:
            with (
                self._reading,
                pool.capacity.cancel_on_close(),
                pool.admission.intake.cancel_on_pause(),
            ):
                await self._read_lines()
                return _End("input", {})
        except _TooLongError:
            return _End("too long", {"line": self._line, "limit": self._max_line_bytes})
        except (AdmissionError, StoreTimeoutError) as error:
            problem = problem_of(error, context)
            why = "store failing"
            if isinstance(error, ShuttingDownError):
                why = "shutting down"
            elif isinstance(error, IntakePausedError):
                why = "paused"
            return _End(why, {"retry_after": problem.members["retry_after"]})
        except DisconnectedProblem:
            raise
        except Problem as problem:
            why = "idle" if problem.status == 408 else "invalid body"
            return _End(why, {"detail": problem.detail})
        except Exception as error:  # the boundary around one request
            log.error("pipe_failed", exc_info=error, extra={"client": self._client})
            return _End("internal error", {})
        return _End("shutting down", {"retry_after": context.shutdown_retry_after})

    async def _read_lines(self) -> None:
        lines = Lines()
        while piece := await self._read():
            await self._take(lines.feed(piece))
            if lines.pending_bytes > self._max_line_bytes + len(b"\r"):
                self._line += 1
                raise _TooLongError
        if rest := lines.last():
            await self._take([rest])

    async def _read(self) -> bytes:
        """The next piece of the body; empty at its end.

        A body with a short ``Content-Length`` is one piece: its client may not read before it has
        sent all.
        """
        piece = await self._read_some()
        if self._length is None or self._length > self._max_line_bytes:
            return piece
        pieces = [piece]
        while piece:
            pieces.append(piece := await self._read_some())
        return b"".join(pieces)

    async def _read_some(self) -> bytes:
        piece: bytes | None = None
        while piece is None:
            try:
                piece = await self._body.read()
            except Problem as problem:
                # A client is not idle while it waits for answers.
                if problem.status != 408 or not self._in_flight:
                    raise
        return piece

    async def _take(self, lines: list[bytes]) -> None:
        cost = 0
        for line in lines:
            self._line += 1
            if text := line.strip(WHITE_SPACE):
                if is_cancel(text):
                    await self._admit()
                    await self._cancel()
                else:
                    await self._take_line(text)
            cost += len(line) + ITEM_COST
            if cost > TURN_COST:
                cost = 0
                await self._admit()
                await trio.lowlevel.checkpoint()
        await self._admit()

    async def _take_line(self, text: bytes) -> None:
        if len(text) > self._max_line_bytes:
            await self._admit()
            raise _TooLongError
        if self._is_full():
            await self._admit()
            await self._wait_for_room()
        self._in_flight += 1
        pool, line = self._pool, self._line
        try:
            spec = parse_item(
                text,
                pool.handlers,
                pool.now,
                submitted_by=self._access.name,
                default_type=self._options.type,
            )
        except Problem as problem:
            self._refuse(Place(line, key_in(text)), "Refused", problem.detail)
            return
        self._ready.append(with_span(spec, self._span))
        self._places.append(Place(line, None if spec.key is None else spec.key.text))

    def _is_full(self) -> bool:
        lines = self._in_flight
        return (
            lines >= self._options.window
            or self._unsent_bytes >= MAX_UNSENT
            or (lines >= self._options.least_window and lines * self._typical_bytes >= MAX_UNSENT)
        )

    async def _wait_for_room(self) -> None:
        room = False
        async with self._body.watched():
            while self._is_full():
                self._room = trio.Event()
                await self._room.wait()
            room = True
        if not room:
            raise DisconnectedProblem

    async def _admit(self) -> None:
        """Admit what was parsed, or refuse it."""
        specs: Sequence[JobSpec] = self._ready
        self._ready = []
        while specs:
            try:
                await self._admission.admit(specs)
            except (KeyReusedError, QueueFullError) as error:
                self._refuse_first(error)
                specs = self._admission.left[1:]
            else:
                specs = await self._check_found()

    def _refuse_first(self, error: AdmissionError) -> None:
        kind, retry_after = "KeyReused", None
        if isinstance(error, QueueFullError):
            kind, retry_after = "QueueFull", error.retry_after
        problem = problem_of(error, self._context)
        self._refuse(self._places.popleft(), kind, problem.detail, retry_after)

    def _note_taken(self, specs: Sequence[JobSpec], jobs: Sequence[Job], is_found: bool) -> None:
        self._accepted += len(jobs)
        outstanding, waiters = self._outstanding, self._pool.waiters
        for spec, job in zip(specs, jobs, strict=True):
            place, job_id = self._places.popleft(), job.id
            if job.status is JobStatus.COMPLETED:
                self._add_unsent(place, job_id, job, replayed=True)
            elif job_id in outstanding:
                outstanding[job_id] += ((place, True),)
            else:
                outstanding[job_id] = ((place, is_found),)
                waiters.call(job_id, self._note_completed)
                if is_found:
                    self._to_check.append((job_id, spec))

    async def _check_found(self) -> list[JobSpec]:
        """Look at the found jobs once more: one may have ended before the pipe waited for it.

        Returns:
            The submissions whose jobs were dropped meanwhile: their keys are not known any more.
        """
        dropped: list[JobSpec] = []
        while self._to_check:
            job_id, spec = self._to_check.pop()
            try:
                job = await self._pool.store.find(job_id)
            except JobNotFoundError:
                for place, _ in self._stop_waiting(job_id):
                    self._places.append(place)
                    dropped.append(spec)
            else:
                if job.status is JobStatus.COMPLETED:
                    self._let_go(job_id, job)
        return dropped

    async def _cancel(self) -> None:
        """Cancel all jobs that are under way, also those that others wait for."""
        for number, job_id in enumerate(list(self._outstanding), 1):
            cancel_nowait(self._pool, job_id)
            if number % STRIDE == 0:
                await trio.lowlevel.checkpoint()

    # Answers out.

    def _note_completed(self, job: Job) -> None:
        """Take over a job in the step that shows it as completed; it must not raise."""
        for place, replayed in self._outstanding.pop(job.id):
            self._add_unsent(place, job.id, job, replayed=replayed)

    def _let_go(self, job_id: str, job: Job | None) -> None:
        """Answer the lines of a job that the pipe waits for no longer."""
        for place, replayed in self._stop_waiting(job_id):
            self._add_unsent(place, job_id, job, replayed=replayed)

    def _stop_waiting(self, job_id: str) -> tuple[tuple[Place, bool], ...]:
        self._pool.waiters.forget_call(job_id, self._note_completed)
        return self._outstanding.pop(job_id, ())

    def _add_unsent(self, place: Place, job_id: str, job: Job | None, *, replayed: bool) -> None:
        size = _size(job)
        self._unsent.append((place, job_id, job, replayed))
        self._unsent_bytes += size
        self._typical_bytes += (size - self._typical_bytes) * _WEIGHT
        self._wake.set()

    def _refuse(
        self, place: Place, kind: str, message: str, retry_after: int | None = None
    ) -> None:
        line = refused_line(place, kind, message, retry_after)
        self._counts[REFUSED] += 1
        self._unsent.append(line)
        self._unsent_bytes += len(line)
        self._wake.set()

    async def _hand_out(self) -> _End:
        """Send each answer as soon as there is one, until there will be no more; say why."""
        over = self._pool.waiters.over
        end = None
        while end is None or self._unsent or self._outstanding:
            if self._unsent:
                await self._send_some()
            elif end is None or not (self._access_lost or over.is_set()):
                await self._wait()
            else:
                self._give_up()
            end = self._end
        return end

    def _give_up(self) -> None:
        """Answer the lines whose jobs have not ended: their ends will not be told."""
        for job_id in list(self._outstanding):
            self._let_go(job_id, None)

    async def _send_some(self) -> None:
        pieces: list[bytes] = []
        sent = size = 0
        while self._unsent and size < _PIECE:
            unsent = self._unsent.popleft()
            line = unsent if isinstance(unsent, bytes) else self._line_of(*unsent)
            sent += len(line) if isinstance(unsent, bytes) else _size(unsent[2])
            size += len(line)
            pieces.append(line)
        await self._send(b"".join(pieces))
        self._in_flight -= len(pieces)
        self._unsent_bytes -= sent
        self._room.set()

    def _line_of(self, place: Place, job_id: str, job: Job | None, replayed: bool) -> bytes:
        if job is None or self._access_lost:
            self._counts[NOT_COMPLETED] += 1
            return incomplete_line(place, job_id, replayed=replayed)
        if job.outcome is not None:
            self._counts[job.outcome] += 1
        return completed_line(place, job, self._pool.handlers, replayed=replayed)

    async def _wait(self) -> None:
        """Wait for the next answer; send a blank line now and then."""
        with trio.CancelScope(deadline=self._sent_at + HEARTBEAT) as waiting:
            await self._wake.wait()
            self._wake = trio.Event()
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


def _size(job: Job | None) -> int:
    """About how many bytes an answer takes."""
    if job is None or job.ending is None:
        return _ANSWER_BYTES
    ending = job.ending
    size = 0 if ending.result is None else len(ending.result)
    return _ANSWER_BYTES + size + (0 if ending.error is None else len(ending.error.message))
