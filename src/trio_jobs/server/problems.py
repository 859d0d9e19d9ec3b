"""What this layer itself answers: a status, with why and for whom."""

from collections.abc import Iterable


class RefusedError(Exception):
    """A request is not answered by the application but refused with ``status``.

    Raised to the application by ``receive`` when the body breaks a limit. It
    may answer in its own words; if it lets the error out, the front door
    answers. In both cases the connection is closed after the answer.

    Attributes:
        status: The status of the answer.
        detail: Why, for the client.
        headers: Headers for the answer beyond the usual ones.
        malformed: The bytes were no valid HTTP. Worth a warning in the log.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Iterable[tuple[bytes, bytes]] = (),
        malformed: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = tuple(headers)
        self.malformed = malformed
