"""`PipeJobs`: the lines of one pipe, from when they are taken until their answers are sent."""

import math
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import trio

from trio_jobs.api.pipe_answers import (
    NOT_COMPLETED,
    REFUSED,
    InputLine,
    completed_line,
    incomplete_line,
    refused_line,
)
from trio_jobs.job import Job, JobStatus
from trio_jobs.pool.cancels import STRIDE, cancel_nowait
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.refusals import StoreTimeoutError
from trio_jobs.pool.store import JobNotFoundError

# Bytes of answers that are not sent. Beyond it a pipe takes no line.
MAX_UNSENT = 1_048_576
# Answers are sent in pieces of about so many bytes.
_PIECE = 65_536
# Bytes of an answer beside its result.
_ANSWER_BYTES = 100
# The weight of the last answer in the typical size of answers.
_WEIGHT = 0.1


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


# An answer that is not sent: a job that has ended, or whose end is not told (None), with its id;
# or the line itself.
_Unsent = tuple[InputLine, str, Job | None, bool] | bytes


class PipeJobs:
    """The jobs and the answers of one pipe.

    The step that shows a job as completed hands it over by `_note_completed`: the store may drop
    the job afterwards. No method but `check_found`, `settle` and `cancel` is a checkpoint.

    Args:
        pool: Where the jobs are.
        options: How many lines may be in flight.

    Attributes:
        in_flight: How many lines are taken and have no sent answer.
        accepted: How many have a job.
        counts: How many had each outcome, of those whose answers were taken to be sent.
        input_lines: The lines that are parsed and neither admitted nor refused, in order.
        wake: Set when there may be something to send; the sender replaces it.
        room: Set when answers have been sent; the task that waits for room replaces it.
        sent_at: When answers were sent last, by Trio's clock; -inf before the first.
        is_told: Whether the client may still learn how jobs have ended.
    """

    def __init__(self, pool: Pool, options: PipeOptions) -> None:
        self.in_flight = 0
        self.accepted = 0
        self.counts: Counter[str] = Counter()
        self.input_lines: deque[InputLine] = deque()
        self.wake = trio.Event()
        self.room = trio.Event()
        self.sent_at = -math.inf
        self.is_told = True
        self._pool = pool
        self._options = options
        # By job id; each line, and whether it has found the job by its key.
        self._under_way: dict[str, list[tuple[InputLine, bool]]] = {}
        self._cancelled: set[str] = set()  # jobs whose cancel was asked for; some have ended since
        self._to_check: list[tuple[str, JobSpec]] = []  # found by a key; they may have ended since
        self._unsent: deque[_Unsent] = deque()
        self._unsent_bytes = 0
        self._sending_bytes = 0
        self._sending = 0  # answers in the piece that is being sent
        # Until answers show it, they may be large: a wide window opens with the first hundred.
        self._typical_bytes = float(MAX_UNSENT)

    @property
    def are_under_way(self) -> bool:
        """Whether there are jobs whose ends will come."""
        return bool(self._under_way)

    @property
    def some_are_unsent(self) -> bool:
        """Whether there is an answer to send."""
        return bool(self._unsent)

    @property
    def is_full(self) -> bool:
        """Whether no further line may be taken before an answer is sent.

        The size of the answers to come is not known. If answers are large, fewer lines than
        ``window`` are in flight, but never fewer than ``least_window``: workers would be idle.
        """
        lines, options = self.in_flight, self._options
        if lines >= options.window or self._unsent_bytes >= MAX_UNSENT:
            return True
        return lines >= options.least_window and lines * self._typical_bytes >= MAX_UNSENT

    # Lines in.

    def note_taken(self, specs: Sequence[JobSpec], jobs: Sequence[Job], is_found: bool) -> None:
        """Note the jobs of the next lines, in the step that admits them; see `LineAdmission`."""
        self.accepted += len(jobs)
        under_way, call, waiters = self._under_way, self._note_completed, self._pool.waiters
        for spec, job in zip(specs, jobs, strict=True):
            line, job_id = self.input_lines.popleft(), job.id
            if job.status is JobStatus.COMPLETED:
                self._add(line, job_id, job, replayed=True)
            elif job_id in under_way:
                under_way[job_id].append((line, True))
            else:
                under_way[job_id] = [(line, is_found)]
                waiters.call(job_id, call)
                if is_found:
                    self._to_check.append((job_id, spec))

    async def check_found(self) -> list[JobSpec]:
        """Look at the found jobs once more: one may have ended before it was waited for.

        Returns:
            The submissions whose jobs were dropped meanwhile: their keys are not known any more.
        """
        dropped: list[JobSpec] = []
        while self._to_check:
            job_id, spec = self._to_check[-1]
            try:
                job = await self._pool.store.find(job_id)
            except JobNotFoundError:
                self._to_check.pop()
                for line, _ in self._stop_waiting(job_id):
                    self.input_lines.append(line)
                    dropped.append(spec)
            else:
                self._to_check.pop()
                if job.status is JobStatus.COMPLETED:
                    self._let_go(job_id, job)
        return dropped

    async def settle(self) -> None:
        """Do the rest of `check_found` when no line is taken any more."""
        while self._to_check:
            job_id, _ = self._to_check.pop()
            job: Job | None = None
            with suppress(JobNotFoundError, StoreTimeoutError):
                job = await self._pool.store.find(job_id)
            if job is None or job.status is JobStatus.COMPLETED:
                self._let_go(job_id, job)

    def refuse(
        self, line: InputLine, kind: str, message: str, retry_after: int | None = None
    ) -> None:
        """Answer a line that makes no job; see `refused_line`."""
        answer = refused_line(line, kind, message, retry_after)
        self.counts[REFUSED] += 1
        self._unsent.append(answer)
        self._unsent_bytes += len(answer)
        self.wake.set()

    async def cancel(self) -> None:
        """Cancel all jobs that are under way, also those that others wait for.

        Checkpoints:
            At least one: a client may ask again and again.
        """
        self._cancelled &= self._under_way.keys()
        for number, job_id in enumerate(self._under_way.keys() - self._cancelled):
            if number % STRIDE == 0:
                await trio.lowlevel.checkpoint()
            self._cancelled.add(job_id)
            cancel_nowait(self._pool, job_id)
        await trio.lowlevel.checkpoint()

    # Answers out.

    def take_piece(self) -> bytes:
        """Some answers, at least one; call `note_sent` when the client has them."""
        lines: list[bytes] = []
        length = size = 0
        while self._unsent and length < _PIECE:
            unsent = self._unsent.popleft()
            if isinstance(unsent, bytes):
                line = unsent
                size += len(line)
            else:
                line = self._line_of(*unsent)
                size += _size(unsent[2])
            length += len(line)
            lines.append(line)
        self._sending, self._sending_bytes = len(lines), size
        return b"".join(lines)

    def note_sent(self) -> None:
        """Note that the last piece is sent: there is room for as many lines."""
        self.in_flight -= self._sending
        self._unsent_bytes -= self._sending_bytes
        self.sent_at = trio.current_time()
        self.room.set()

    def give_up(self) -> None:
        """Answer the lines whose jobs have not ended: how they end will not be told."""
        for job_id in list(self._under_way):
            self._let_go(job_id, None)

    def leave(self, *, cancel: bool) -> tuple[int, int]:
        """Let go of the jobs that are under way; no answer is sent any more.

        Args:
            cancel: Whether the jobs of lines without a key are cancelled.

        Returns:
            How many are cancelled, and how many go on.
        """
        cancelled = go_on = 0
        for job_id in list(self._under_way):
            input_lines = self._stop_waiting(job_id)
            has_key = any(line.key is not None for line, _ in input_lines)
            if cancel and not has_key and cancel_nowait(self._pool, job_id):
                cancelled += 1
            else:
                go_on += 1
        return cancelled, go_on

    def _note_completed(self, job_id: str, job: Job | None) -> None:
        """Take over a job in the step that shows it as completed; it must not raise."""
        for line, replayed in self._under_way.pop(job_id):
            self._add(line, job_id, job, replayed=replayed)

    def _let_go(self, job_id: str, job: Job | None) -> None:
        """Answer the lines of a job that the pipe waits for no longer."""
        for line, replayed in self._stop_waiting(job_id):
            self._add(line, job_id, job, replayed=replayed)

    def _stop_waiting(self, job_id: str) -> list[tuple[InputLine, bool]]:
        self._pool.waiters.forget_call(job_id, self._note_completed)
        return self._under_way.pop(job_id, [])

    def _add(self, line: InputLine, job_id: str, job: Job | None, *, replayed: bool) -> None:
        size = _size(job)
        self._unsent.append((line, job_id, job, replayed))
        self._unsent_bytes += size
        self._typical_bytes += (size - self._typical_bytes) * _WEIGHT
        self.wake.set()

    def _line_of(self, line: InputLine, job_id: str, job: Job | None, replayed: bool) -> bytes:
        if job is None or job.outcome is None or not self.is_told:
            self.counts[NOT_COMPLETED] += 1
            return incomplete_line(line, job_id, replayed=replayed)
        self.counts[job.outcome] += 1
        return completed_line(line, job, self._pool.handlers, replayed=replayed)


def _size(job: Job | None) -> int:
    """About how many bytes an answer takes."""
    if job is None or job.ending is None:
        return _ANSWER_BYTES
    result, error = job.ending.result, job.ending.error
    size = _ANSWER_BYTES if result is None else _ANSWER_BYTES + len(result)
    return size if error is None else size + len(error.message)
