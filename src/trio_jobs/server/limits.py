"""Every number that the front door goes by. The names are those of the ``[http]`` table."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may take. Durations are in seconds by ``ClientTime``, sizes in bytes.

    Attributes:
        max_body_bytes: The longest body of a request, counted as it arrives.
            The application may lift it for one request.
        max_header_bytes: The longest request line and headers together.
        max_connections: Open connections. Fewer, where the limit on
            descriptors is lower; those beyond wait to be accepted.
        max_requests_per_connection: After so many, a connection is closed.
        keep_alive_timeout: How long a connection may be silent between
            requests, or before its first.
        header_timeout: How long the request line and headers may take from
            their first byte on, and the handshake of TLS.
        body_timeout: How long the body may take, from when it is first read.
            The application may lift it for one request.
        send_timeout: How long a client may take nothing of its answer; each
            256 KiB may take ten times as long.
        graceful_timeout: How long requests that are being answered may still
            take at the stop, unless their clients are taking the answers.
    """

    max_body_bytes: int = 1_048_576
    max_header_bytes: int = 16_384
    max_connections: int = 10_000
    max_requests_per_connection: int = 100_000
    keep_alive_timeout: float = 10.0
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    send_timeout: float = 5.0
    graceful_timeout: float = 2.0
