"""`Exporter`: answers ``GET /metrics``, one scrape at a time."""

from collections import Counter
from collections.abc import Iterator

import trio
from prometheus_client import exposition
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from trio_jobs.api.feed import Feed
from trio_jobs.handlers.blocking_monitor import BlockingMonitor
from trio_jobs.metrics.families import families
from trio_jobs.metrics.numbers import Numbers, ServerNumbers, copy_numbers
from trio_jobs.pool.pool import Pool
from trio_jobs.server.traffic import Traffic

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Exporter:
    """Writes the numbers of a pool and its server for Prometheus.

    The event loop copies the numbers, a thread writes them: with a hundred types the writing takes
    longer than a step of the event loop may.

    Args:
        pool: The pool.
        monitor: Knows the longest step of the event loop.

    Attributes:
        refusals: How many requests were refused, by reason; the API counts.
    """

    def __init__(self, pool: Pool, monitor: BlockingMonitor) -> None:
        self._pool = pool
        self._monitor = monitor
        self._one_scrape = trio.Lock()
        # Its own: handlers that hold all threads must not hide the numbers that say so.
        self._thread = trio.CapacityLimiter(1)
        self.refusals: Counter[str] = Counter()
        self._traffic: Traffic | None = None
        self._feed: Feed | None = None

    def watch(self, traffic: Traffic, feed: Feed | None) -> None:
        """Tell what a server counts, from the next scrape on.

        Args:
            traffic: Its requests and connections.
            feed: Its streams of events; None if it has none.
        """
        self._traffic, self._feed = traffic, feed

    async def write(self, accept: str) -> tuple[str, bytes]:
        """The answer to a scrape.

        Args:
            accept: The request's ``Accept``; the answer is in OpenMetrics if it prefers that.

        Returns:
            The media type, and the text.

        Cancellation:
            Acted on while another scrape is under way.
        """
        async with self._one_scrape:
            numbers = self._copy()
            try:
                return await trio.to_thread.run_sync(_write, numbers, accept, limiter=self._thread)
            except RuntimeError:
                # No thread can be started: above all then an operator wants to see the numbers.
                return _write(numbers, accept)

    def _copy(self) -> Numbers:
        server = None
        if self._traffic is not None:
            server = ServerNumbers(
                requests=self._traffic.requests.copy(),
                refusals=self.refusals.copy(),
                connections=len(self._traffic.connections),
                event_streams=0 if self._feed is None else self._feed.streams,
                event_loop_lag_seconds=self._monitor.take_longest_step(),
            )
        return copy_numbers(self._pool, server=server)


class _Copied:
    """Numbers, as the writer of the extra wants them."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        return families(self._numbers)


def _write(numbers: Numbers, accept: str) -> tuple[str, bytes]:
    collector = _Copied(numbers)
    if prefers_openmetrics(accept):
        return openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest(collector)  # type: ignore[no-untyped-call]
    return _TEXT, exposition.generate_latest(collector)


def prefers_openmetrics(accept: str) -> bool:
    """Whether an ``Accept`` asks for OpenMetrics at least as much as for plain text."""
    wanted = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for each in accept.lower().split(","):
        kind, *parameters = [part.strip() for part in each.split(";")]
        if kind in wanted:
            wanted[kind] = max(wanted[kind], _quality(parameters))
    openmetrics_text, plain = wanted.values()
    return 0.0 < openmetrics_text >= plain


def _quality(parameters: list[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
