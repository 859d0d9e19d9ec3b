"""What a client raises, beside TimeoutError and ValueError."""

from trio_jobs.client.job_view import JobError


class ServerGoneError(Exception):
    """For ``retry_for`` seconds, the server has not answered, or has asked to try again later.

    It is unknown whether the server has carried out the request. A repetition with the same key
    makes no second job while the server remembers the first one.

    Attributes:
        last: Why the last try failed: an error of httpx, or the status of the answer.
    """

    def __init__(self, text: str, last: Exception | int) -> None:
        super().__init__(text)
        self.last = last


class RefusedError(Exception):
    """The server refuses the request: another try would be refused as well.

    Attributes:
        status: The status of its answer, such as 400 or 401.
        detail: What it says; of an answer of another server, the beginning of the body.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail


class JobForgottenError(Exception):
    """The server does not know the job (any more).

    It has been restarted and keeps its jobs in memory, or the job has been dropped since it ended:
    whether it ended, and how, is unknown.

    Attributes:
        id: The job's id.
    """

    def __init__(self, id: str) -> None:  # noqa: A002
        super().__init__(f"the server does not know the job {id!r} (any more)")
        self.id = id


class JobUnsuccessfulError(Exception):
    """A job has no result: it failed, timed out, was cancelled, interrupted or refused.

    Attributes:
        id: The job's id; None if it was refused, so that there is none.
        outcome: How it ended, such as ``failed``; None if it had not when the server stopped.
        error: Why, if the server says so.
    """

    def __init__(
        self,
        *,
        id: str | None,  # noqa: A002
        outcome: str | None,
        error: JobError | None,
    ) -> None:
        job = "a job" if id is None else f"job {id!r}"
        ending = "had not completed when the server stopped" if outcome is None else outcome
        why = "" if error is None else f": {error.type}"
        if error is not None and error.message:
            why += f": {error.message}"
        super().__init__(f"{job} {ending}{why}")
        self.id = id
        self.outcome = outcome
        self.error = error
