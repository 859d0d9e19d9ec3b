"""`Traffic`: counts the requests that a server has answered, and its open connections."""

from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

# Other methods are counted together: a client can send any word.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER: Final = "(other)"

# Once so many kinds of requests (method, target and status) are kept, their routes are looked up.
_MOST_SENT: Final = 1_000

# A longer target is not kept: a client can send any.
_LONGEST: Final = 200


class Traffic:
    """What a server counts; a server without it counts nothing.

    Most requests are the same as one before, so they are counted as they were sent. Their routes
    are looked up when somebody reads the numbers.

    Args:
        route_of: Gives each path the route that its requests count for. There are few routes.

    Attributes:
        connections: The open ones.
    """

    def __init__(self, route_of: Callable[[str], str]) -> None:
        self.connections: Collection[object] = ()
        self._route_of = route_of
        self._requests: Counter[tuple[str, str, int | None]] = Counter()
        # As they were sent, by method, target and status; their routes are not looked up yet.
        self._sent: Counter[tuple[bytes, bytes, int | None]] = Counter()
        # The last one of them, and how often in a row it has come.
        self._last: tuple[bytes, bytes, int | None] = b"", b"", None
        self._repeats = 0

    @property
    def requests(self) -> Counter[tuple[str, str, int | None]]:
        """How many requests have ended, by route, method and status of the answer.

        The status is None if the client has disconnected before its answer.
        """
        self._look_up_routes()
        return self._requests

    def note_sent(self, method: bytes, target: bytes, status: int | None) -> None:
        """Count a request that has ended, by its method and target as the client has sent them."""
        if (sent := (method, target, status)) == self._last:
            self._repeats += 1
            return
        self._count_repeats()
        self._last, self._repeats = sent, 1
        if len(self._sent) >= _MOST_SENT or len(target) > _LONGEST:
            self._look_up_routes()

    def note_request(self, method: str, path: str, status: int | None, count: int = 1) -> None:
        """Count requests that have ended.

        Args:
            method: In capitals.
            path: Without the query.
            status: Of the answer.
            count: How many there are of them.
        """
        if method not in _METHODS:
            method = OTHER
        self._requests[self._route_of(path), method, status] += count

    def note_malformed(self, status: int) -> None:
        """Count bytes that the server has refused because they are no HTTP request."""
        self._requests[OTHER, OTHER, status] += 1

    def _count_repeats(self) -> None:
        if self._repeats:
            self._sent[self._last] += self._repeats
        self._last, self._repeats = (b"", b"", None), 0

    def _look_up_routes(self) -> None:
        self._count_repeats()
        sent, self._sent = self._sent, Counter()
        for (method, target, status), count in sent.items():
            path = target.partition(b"?")[0].decode("latin-1")
            self.note_request(method.decode("ascii").upper(), path, status, count)
