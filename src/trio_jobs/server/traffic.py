"""`Traffic`: counts the requests that a server has answered, and its open connections."""

from collections import Counter
from collections.abc import Callable, Collection

# Other methods are counted together: a client can send any word.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "(other)"


class Traffic:
    """What a server counts; a server without it counts nothing.

    Args:
        route_of: Gives each path the route that its requests count for. There are few routes.

    Attributes:
        requests: How many requests have ended, by route, method and status of the answer. The
            status is None if the client has disconnected before its answer.
        connections: The open ones.
    """

    def __init__(self, route_of: Callable[[str], str]) -> None:
        self._route_of = route_of
        self.requests: Counter[tuple[str, str, int | None]] = Counter()
        self.connections: Collection[object] = ()

    def note_request(self, method: str, path: str, status: int | None) -> None:
        """Count a request that has ended.

        Args:
            method: In capitals.
            path: Without the query.
            status: Of the answer.
        """
        if method not in _METHODS:
            method = OTHER
        self.requests[self._route_of(path), method, status] += 1

    def note_malformed(self, status: int) -> None:
        """Count bytes that the server has refused because they are no HTTP request."""
        self.requests[OTHER, OTHER, status] += 1
