"""`families`: the numbers as Prometheus' metrics, under the names that users know."""

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Final, TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from trio_jobs.job import Outcome
from trio_jobs.metrics.numbers import Numbers, ServerNumbers
from trio_jobs.pool.histogram import Histogram
from trio_jobs.pool.statistics import OTHER, JobStatistics

_F = TypeVar("_F", bound=Metric)

_PREFIX = "trio_jobs_"

# From 2 ms to 34 minutes. Each power of two is the bound of a bucket: the sums are exact.
_EXPONENTS: Final = tuple(range(-9, 12))
_BOUNDS: Final = tuple(str(2.0**each) for each in _EXPONENTS)

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
    if numbers.jobs is not None:
        yield from _of_the_jobs(numbers.jobs, numbers.held)
        yield from _of_the_durations(numbers.durations)
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
        "buffer_used_peak": ("The most jobs that were in the buffer", pool.peak_buffered),
        "workers": ("Workers", pool.workers),
        "workers_busy": ("Workers that have a job", pool.busy),
        "waiting": ("Jobs that wait for a time, or are held", pool.waiting),
        "held": ("Jobs that wait for others of their type, or for its resume", pool.held),
        "intake_paused": ("1 while an operator lets no jobs in", pool.intake != "open"),
        "paused_types": ("Types whose jobs an operator has paused", len(pool.paused)),
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
    if numbers.has_disk:
        gauges["unwritten"] = ("Records on their way to the file or database", pool.unwritten)
        gauges["store_failing_seconds"] = (
            "For how long the file or database could not be written; 0 while it can",
            pool.store_failing_seconds or 0.0,
        )
    if numbers.has_database:
        gauges["database_members"] = ("Servers that share the database", len(pool.members))
        gauges["database_open_jobs"] = ("Unfinished jobs of all of them, about", pool.open)
        gauges["database_away"] = ("1 while the database does not answer", pool.database != "ok")
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(_PREFIX + name, text, value)
    yield InfoMetricFamily(
        _PREFIX + "build",
        "The version of trio-jobs, and of Python",
        {"version": _version(), "python": platform.python_version()},
    )


def _of_the_jobs(jobs: JobStatistics, held_jobs: Mapping[str, int]) -> Iterator[Metric]:
    held: Counter[str] = Counter()
    for name, number in held_jobs.items():
        held[name if name in jobs.types else OTHER] += number
    submitted = _family(CounterMetricFamily, "jobs_submitted", "Jobs that came in", "type")
    completed = _family(CounterMetricFamily, "jobs_completed", "Jobs that ended", "type", "outcome")
    failed = _family(
        CounterMetricFamily, "attempts_failed", "Attempts that failed or timed out", "type"
    )
    interruptions = _family(
        CounterMetricFamily, "interruptions", "Attempts that the server's death has ended", "type"
    )
    now = _family(GaugeMetricFamily, "jobs", "Unfinished jobs", "type", "status")
    for name, counts in jobs.types.items():
        submitted.add_metric([name], counts.submitted)
        for outcome in Outcome:
            completed.add_metric([name, outcome.value], counts.outcomes.get(outcome, 0))
        failed.add_metric([name], counts.attempts_failed)
        interruptions.add_metric([name], counts.interruptions)
        now.add_metric([name, "pending"], counts.pending - counts.retrying - held[name])
        now.add_metric([name, "retrying"], counts.retrying)
        now.add_metric([name, "held"], held[name])
        now.add_metric([name, "processing"], counts.processing)
    yield from (submitted, completed, failed, interruptions, now)
    yield GaugeMetricFamily(
        _PREFIX + "oldest_pending_seconds",
        "How long the oldest job has been waiting for a worker alone; 0 if none is",
        jobs.oldest_pending_seconds or 0.0,
    )


def _of_the_durations(
    durations: Mapping[str, tuple[Histogram, Histogram]],
) -> Iterator[Metric]:
    text = "Seconds from claim to end, of a job's last attempt"
    run = _family(HistogramMetricFamily, "job_run_seconds", text, "type")
    text = "Seconds from admission to claim, of jobs that ran at their first attempt"
    wait = _family(HistogramMetricFamily, "job_wait_seconds", text, "type")
    for name, histograms in durations.items():
        for family, histogram in zip((run, wait), histograms, strict=True):
            if histogram.count or name != OTHER:
                numbers = [*histogram.up_to(_EXPONENTS), histogram.count]
                family.add_metric(
                    [name], [*zip((*_BOUNDS, "+Inf"), numbers, strict=True)], histogram.seconds
                )
    yield from (run, wait)


def _of_the_server(server: ServerNumbers) -> Iterator[Metric]:
    text = "Requests that have ended, by the answer's status"
    requests = _family(CounterMetricFamily, "http_requests", text, "route", "method", "code")
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
    text = "Open streams of events"
    yield GaugeMetricFamily(_PREFIX + "event_streams", text, server.event_streams)
    yield GaugeMetricFamily(
        _PREFIX + "event_loop_lag_seconds",
        "The longest step of the event loop since the last scrape",
        server.event_loop_lag_seconds,
    )


def _family(kind: Callable[..., _F], name: str, text: str, *labels: str) -> _F:
    return kind(_PREFIX + name, text, labels=labels)


def _counters(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    """A counter with one label."""
    family = _family(CounterMetricFamily, name, text, label)
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _version() -> str:
    try:
        return metadata.version("trio-jobs")
    except metadata.PackageNotFoundError:  # run from the source, not installed
        return "0"
