"""`EmbeddedRunner`: runs the jobs in this process, with the handlers of a configuration."""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import trio

from trio_jobs.api.validation import check_submission
from trio_jobs.commands.run.reader import Reader
from trio_jobs.commands.run.records import Submission
from trio_jobs.commands.run.runner import Deliver, JobEnd, RunnerError
from trio_jobs.configured_jobs import open_configured_jobs
from trio_jobs.embedded_jobs import Jobs
from trio_jobs.error_groups import without_groups
from trio_jobs.handlers.opening_errors import LifespanError, LoopStartError
from trio_jobs.handlers.payload_faults import PayloadError
from trio_jobs.handlers.registry import HandlerRegistry, UnknownTypeError
from trio_jobs.hidden_values import hide_values
from trio_jobs.job import Job, JobError
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import AdmissionError
from trio_jobs.settings import Config, StoreSettings

if TYPE_CHECKING:
    from trio_jobs.pool.pool import Pool

# The fewest submissions that are under way: those beyond the workers wait for one.
_LEAST_IN_FLIGHT = 16


class _Members(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The members of an answer behind ``line``; see `JobEnd`."""

    id: str | None = None
    outcome: str | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: JobError | None = None


_encode = msgspec.json.Encoder().encode


class EmbeddedRunner:
    """A `Runner` whose jobs run in a pool of this process, and are kept in its memory.

    Args:
        config: The settings of the pool.
        handlers: The users' functions.
        in_flight: How many submissions are under way at the most; None for two for each worker.

    Attributes:
        in_flight: See `Runner`.
        failing_since: None: there is no server.
    """

    failing_since = None

    def __init__(
        self, config: Config, handlers: HandlerRegistry, *, in_flight: int | None = None
    ) -> None:
        self.in_flight = 0
        self._window = in_flight or max(2 * config.pool.workers, _LEAST_IN_FLIGHT)
        self._config = for_run(config, self._window)
        self._handlers = handlers
        self._max_bytes = config.http.max_body_bytes
        self._submissions: dict[str, Submission] = {}  # under way, by the job's id
        self._answers: list[JobEnd] = []  # not delivered; they count as under way
        # `_deliver_all` replaces it, after the answers that it has taken.
        self._answered = trio.Event()
        # `_submit_all` waits for it, `_deliver_all` sets it.
        self._room = trio.Event()
        self._submitting = trio.CancelScope()
        self._pool: Pool | None = None

    async def run(self, reader: Reader, deliver: Deliver) -> None:
        """See `Runner`."""
        try:
            async with open_configured_jobs(self._config, self._handlers) as jobs:
                assert isinstance(jobs, Jobs)  # noqa: S101  (for the type checker: they are in memory)
                self._pool = jobs._pool
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._deliver_all, deliver)
                    with self._submitting:
                        await self._submit_all(jobs._pool, reader)
                    while self.in_flight:
                        await self._wait_for_room()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            error = without_groups(group)
            if isinstance(error, LifespanError | LoopStartError | AdmissionError):
                raise RunnerError(str(error)) from error
            raise error from None
        except (LifespanError, LoopStartError, AdmissionError) as error:
            raise RunnerError(str(error)) from error

    def stop(self) -> None:
        """See `Runner`."""
        self._submitting.cancel()

    def cancel(self) -> None:
        """See `Runner`."""
        self.stop()
        if self._pool is not None:
            for job_id in list(self._submissions):
                self._pool.store.request_cancel_nowait(job_id)
                self._pool.note_cancel(job_id)

    async def _submit_all(self, pool: "Pool", reader: Reader) -> None:
        while submissions := await reader.next():
            waiting = deque(self._accepted(submissions))
            while waiting:
                while self.in_flight >= self._window:
                    await self._wait_for_room()
                some = [waiting[at] for at in range(min(len(waiting), self._room_left))]
                specs = [JobSpec(each.type, each.payload) for each in some]
                # No checkpoint from the admission to `call`: a job may end at the next one.
                for job in await pool.admission.admit_up_to(specs):
                    self._submissions[job.id] = waiting.popleft()
                    self.in_flight += 1
                    pool.waiters.call(job.id, self._note_end)

    @property
    def _room_left(self) -> int:
        return self._window - self.in_flight

    def _accepted(self, submissions: Sequence[Submission]) -> list[Submission]:
        """Those that a handler can be called with; the others are answered."""
        accepted = []
        for each in submissions:
            try:
                self._check(each)
            except (PayloadError, UnknownTypeError) as error:
                refusal = JobError(type="Refused", message=str(error))
                self.in_flight += 1
                self._answer(each, _Members(outcome="refused", error=refusal))
            else:
                accepted.append(each)
        return accepted

    def _check(self, submission: Submission) -> None:
        if len(submission.payload) > self._max_bytes:
            raise PayloadError(f"the payload is longer than {self._max_bytes} bytes")
        check_submission(submission.type, submission.payload, self._handlers)

    def _note_end(self, job_id: str, job: Job | None) -> None:
        # For the type checker: in memory each job is seen as it completes.
        assert job is not None and job.ending is not None  # noqa: S101, PT018
        ending = job.ending
        result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
        if ending.result is not None:
            hidden = self._handlers.hidden(job.type) if self._handlers.hides else ()
            text = hide_values(ending.result, hidden) if hidden else ending.result
            result = msgspec.Raw(text)
        members = _Members(
            id=job_id, outcome=ending.outcome.value, result=result, error=ending.error
        )
        self._answer(self._submissions.pop(job_id), members)

    def _answer(self, submission: Submission, members: _Members) -> None:
        outcome = members.outcome or ""
        self._answers.append(JobEnd(submission, _encode(members)[1:], outcome))
        self._answered.set()

    async def _deliver_all(self, deliver: Deliver) -> None:
        while True:
            await self._answered.wait()
            self._answered = trio.Event()
            answers, self._answers = self._answers, []
            await deliver(answers)
            self.in_flight -= len(answers)
            self._room.set()

    async def _wait_for_room(self) -> None:
        self._room = trio.Event()
        await self._room.wait()


def for_run(config: Config, window: int) -> Config:
    """The configuration of a pool whose jobs only its caller knows: none is kept.

    The results file is what survives the process, not the file or the database of the store.

    Args:
        config: The settings.
        window: How many submissions are under way at the most: all of them may wait.
    """
    max_waiting = max(config.pool.max_waiting, window)
    return replace(
        config,
        pool=replace(config.pool, max_waiting=max_waiting, drain=None, leftovers=None),
        store=StoreSettings(
            max_result_bytes=config.store.max_result_bytes, keep_completed=0, keep_failed=0
        ),
    )
