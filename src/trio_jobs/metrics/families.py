"""`families`: the numbers as Prometheus' metrics, under the names that users know."""

import platform
from collections.abc import Iterator, Mapping
from importlib import metadata

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from trio_jobs.metrics.numbers import Numbers, ServerNumbers

_PREFIX = "trio_jobs_"

# Why requests are refused. Each is told from the start: a first step from nothing has no rate.
REASONS = ("full", "closed", "paused", "invalid", "waiting_full", "disk")

# A client's fault in a request that submits jobs.
_INVALID = frozenset({400, 413, 415, 422})
_SUBMISSIONS = frozenset({"/jobs", "/jobs/batch", "/jobs/stream"})

# What stands for the status of an answer that its client has not waited for.
_NO_ANSWER = "none"


def families(numbers: Numbers) -> Iterator[Metric]:
    """All metrics of a pool, and of its server if it has one."""
    yield from _of_the_pool(numbers)
    if numbers.server is not None:
        yield from _of_the_server(numbers.server)


def _of_the_pool(numbers: Numbers) -> Iterator[Metric]:
    pool = numbers.pool
    dropped = {outcome.value: count for outcome, count in pool.dropped.items()}
    yield _counters(
        "jobs_dropped", "Completed jobs that have made room for others", "outcome", dropped
    )
    gauges = {
        "buffer_used": ("Jobs in the buffer", pool.buffered),
        "buffer_size": ("Jobs that the buffer can hold", pool.buffer_size),
        "buffer_used_peak": ("The most jobs that were in the buffer", numbers.buffer_used_peak),
        "workers": ("Workers", pool.workers),
        "workers_busy": ("Workers that have a job", pool.busy),
        "waiting": ("Jobs that wait for a time, or for others of their type", pool.waiting),
        "oldest_running_seconds": (
            "How long the job that began first has been running; 0 if none runs",
            pool.oldest_running_seconds or 0.0,
        ),
        "blocked": (
            "1 while jobs that have a worker cannot begin: something has run out",
            pool.blocked is not None,
        ),
        "waiters": ("Tasks that wait for a job, most of them for a client", numbers.waiters),
        "stopping": ("1 once no more jobs are taken", pool.status != "ready"),
        "start_time_seconds": (
            "When the pool was started, in seconds since 1970",
            numbers.started_at.timestamp(),
        ),
    }
    if numbers.processes is not None:
        gauges["processes"] = ("Child processes that run handlers", numbers.processes)
    if numbers.has_file:
        gauges["unwritten"] = ("Records on their way to the disk", pool.unwritten)
        gauges["store_failing_seconds"] = (
            "For how long the file could not be written; 0 while it can",
            pool.store_failing_seconds or 0.0,
        )
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(_PREFIX + name, text, value)
    yield InfoMetricFamily(
        _PREFIX + "build",
        "The version of trio-jobs, and of Python",
        {"version": _version(), "python": platform.python_version()},
    )


def _of_the_server(server: ServerNumbers) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        _PREFIX + "http_requests",
        "Requests that have ended, by the answer's status",
        labels=["route", "method", "code"],
    )
    for (route, method, status), count in server.requests.items():
        requests.add_metric([route, method, str(status or _NO_ANSWER)], count)
    yield requests
    refusals = {reason: server.refusals.get(reason, 0) for reason in REASONS}
    refusals["invalid"] = sum(
        count
        for (route, method, status), count in server.requests.items()
        if route in _SUBMISSIONS and method == "POST" and status in _INVALID
    )
    yield _counters("refused", "Refused requests of clients, by reason", "reason", refusals)
    yield GaugeMetricFamily(
        _PREFIX + "connections", "Open connections of clients", server.connections
    )
    yield GaugeMetricFamily(
        _PREFIX + "event_loop_lag_seconds",
        "The longest step of the event loop since the last scrape",
        server.event_loop_lag_seconds,
    )


def _counters(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    """A counter with one label."""
    family = CounterMetricFamily(_PREFIX + name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _version() -> str:
    try:
        return metadata.version("trio-jobs")
    except metadata.PackageNotFoundError:  # run from the source, not installed
        return "0"
