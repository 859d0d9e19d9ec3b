"""`AwaitedAdmission`: takes no job in at once, since a job is in only when it is written."""

from collections.abc import Sequence

from trio_jobs.job import Job
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.limited_admission import LimitedAdmission
from trio_jobs.pool.refusals import ShuttingDownError


class AwaitedAdmission(LimitedAdmission):
    """A `LimitedAdmission` whose awaited methods alone take jobs in.

    Attributes:
        written_to: Where the jobs are, for messages.
    """

    written_to: str

    def submit(self, *_: object, **__: object) -> Job:
        """Refuse to take a job in at once."""
        raise TypeError(f"the jobs are in a {self.written_to}: use `await admit(...)`")

    def submit_all(self, specs: Sequence[JobSpec]) -> list[Job]:  # noqa: ARG002
        """Refuse to take jobs in at once."""
        raise TypeError(f"the jobs are in a {self.written_to}: use `await admit_all(...)`")

    def admit_up_to_nowait(self, specs: Sequence[JobSpec]) -> list[Job]:  # noqa: ARG002
        """Admit no job, since that has to wait until it is written."""
        if self.closed:
            raise ShuttingDownError
        return []
