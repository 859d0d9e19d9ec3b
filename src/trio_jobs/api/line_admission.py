"""`LineAdmission`: admits the jobs of a body's lines in order, as room appears."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from trio_jobs.api.body_stream import DisconnectedProblem
from trio_jobs.job import Job
from trio_jobs.pool.idempotency import KnownKeys
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.refusals import AdmissionError


class LineAdmission:
    """Admits jobs one after the other; a job whose key is known is found instead.

    Args:
        pool: Takes the jobs in.
        watched: A block that is cancelled when the client disconnects: the wait for room is in one,
            since a request that waits holds a descriptor.
        note: Called with the next submissions and their jobs as soon as these are in, or found,
            before any checkpoint; and with whether they were found. A found job is as it was a
            moment ago.

    Attributes:
        left: The jobs that are neither in nor found.
    """

    def __init__(
        self,
        pool: Pool,
        watched: Callable[[], AbstractAsyncContextManager[object]],
        note: Callable[[Sequence[JobSpec], Sequence[Job], bool], None],
    ) -> None:
        self.left: Sequence[JobSpec] = ()
        self._admission = pool.admission
        self._known = KnownKeys(pool.store)
        self._watched = watched
        self._note = note

    async def admit(self, specs: Sequence[JobSpec]) -> None:
        """Admit or find these jobs.

        Raises:
            KeyReusedError: The key of the first job that is left was used with another submission.
            QueueFullError: There is no room for the first job that is left, and it cannot wait.
            DisconnectedProblem: The client has disconnected while they waited for room.
            AdmissionError: The pool has closed, the intake was paused, or the file fails.
            StoreTimeoutError: With a file: it is unknown whether the first jobs are in.

        Cancellation:
            ``note`` has been called with all jobs that are in.

        Checkpoints:
            At least one for each step that admits jobs.
        """
        self.left = specs
        known = self._known
        await known.look_up(specs)
        while self.left:
            found, new = known.leading(self.left)
            if found:
                self._take(found, is_found=True)
            if new:
                admitted = self._admission.admit_up_to_nowait(self.left[:new])
                if admitted:
                    self._take(admitted, is_found=False)
                    await trio.lowlevel.checkpoint()
                elif not (admitted := await self._admit_when_possible(self.left[:new])):
                    await known.look_up(self.left)  # another client has used a key meanwhile
                known.note(admitted)

    async def _admit_when_possible(self, specs: Sequence[JobSpec]) -> list[Job]:
        """Wait for room; none is admitted if another client has used the key of the first."""
        admitted: list[Job] | None = None
        refusal: AdmissionError | None = None
        async with self._watched():
            try:
                admitted = await self._admission.admit_up_to(specs)
                self._take(admitted, is_found=False)
            except AdmissionError as error:
                # Raise it below: in a group with a bug, Quart would answer a 503 and hide the bug.
                refusal = error
        if refusal is not None:
            raise refusal
        if admitted is None:
            raise DisconnectedProblem("the client left, or stopped sending, while lines waited")
        return admitted

    def _take(self, jobs: Sequence[Job], *, is_found: bool) -> None:
        specs, self.left = self.left[: len(jobs)], self.left[len(jobs) :]
        self._note(specs, jobs, is_found)
