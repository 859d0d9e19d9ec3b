"""Why the admission refuses a job."""

# Of a database.
NO_ANSWER = "the database does not answer"
KEY_IN_USE = "a transaction that has not ended has submitted a job with this key"

# Seconds: nobody knows when an operator resumes.
PAUSED_RETRY_AFTER = 30


class AdmissionError(Exception):
    """The job was refused: nothing of it was kept, and no client could see it.

    Attributes:
        reason: The reason in a word, for counts.
    """

    reason: str


class QueueFullError(AdmissionError):
    """There is no room in the buffer; or, for a job with a later time, among those that wait.

    Attributes:
        retry_after: Whole seconds after which there should be room, at least 1.
    """

    reason = "full"

    def __init__(
        self, retry_after: int, text: str = "no room in the buffer", *, reason: str = reason
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.retry_after = retry_after


class ShuttingDownError(AdmissionError):
    """The admission is closed: the pool takes no more jobs."""

    reason = "closed"

    def __init__(self, text: str = "shutting down") -> None:
        super().__init__(text)


class IntakePausedError(AdmissionError):
    """An operator has paused the intake: the pool takes no new jobs until the resume."""

    reason = "paused"
    retry_after = PAUSED_RETRY_AFTER

    def __init__(self) -> None:
        super().__init__("the intake is paused")


class StoreWriteError(AdmissionError):
    """The file or the database cannot be written now: the disk is full, say.

    Attributes:
        kept: What is left of the request, as a text.
        holds: Whether the request takes effect all the same: it asked for no new job, and a crash
            can take the effect back.

    Args:
        text: Why nothing can be written.
        kept: What is left of a request that takes effect all the same; None if nothing is.
    """

    reason = "disk"

    def __init__(self, text: str, *, kept: str | None = None) -> None:
        super().__init__(text)
        self.kept = "nothing was kept" if kept is None else kept
        self.holds = kept is not None


class StoreUnavailableError(AdmissionError):
    """The disk or the database does not answer: no job is taken."""

    reason = "disk"

    def __init__(self, text: str = "the disk does not answer") -> None:
        super().__init__(text)


class StoreTimeoutError(Exception):
    """There was no answer in time: it is unknown whether the request was carried out.

    Args:
        seconds: How long it was waited for.
        waited_for: What has not answered.
    """

    reason = "disk"

    def __init__(self, seconds: float, waited_for: str = "the disk") -> None:
        super().__init__(f"{waited_for} has not answered within {seconds:g} s")


class AnswerLostError(StoreTimeoutError):
    """The answer was lost with the connection, and the database refuses to repeat the request."""

    def __init__(self, reason: str) -> None:
        Exception.__init__(self, f"the database's answer was lost, and now it refuses: {reason}")
