"""An exporter over the parts of a pool, and what it writes, read back by Prometheus' parser."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from tests.support import SUCCEEDED, Parts, make_parts
from trio_jobs.api.pool_source import feed_of
from trio_jobs.handlers.blocking_monitor import BlockingMonitor
from trio_jobs.metrics.exporter import Exporter
from trio_jobs.metrics.numbers import Numbers, ServerNumbers, copy_numbers
from trio_jobs.server.traffic import Traffic
from trio_jobs.settings import LoggingSettings

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"

Labels = frozenset[tuple[str, str]]


class Exported:
    """An exporter.

    Attributes:
        exporter: The exporter.
        monitor: Its monitor; a test adds it as an instrument if it wants steps to be timed.
        traffic: What the server counts.
    """

    def __init__(self, parts: Parts) -> None:
        self.monitor = BlockingMonitor(parts.pool.executor, LoggingSettings())
        self.traffic = Traffic(lambda path: path)
        self.exporter = Exporter(parts.pool, self.monitor)
        self.exporter.watch(self.traffic, feed_of(parts.pool))

    async def scrape(self) -> Mapping[tuple[str, Labels], float]:
        """The samples, by name without prefix, and labels."""
        _, text = await self.exporter.write("")
        return samples(text)

    async def value(self, name: str, **labels: str) -> float:
        """One sample."""
        return (await self.scrape())[name, frozenset(labels.items())]


def samples(text: bytes, *, openmetrics: bool = False) -> dict[tuple[str, Labels], float]:
    """The samples in an answer, by name without prefix, and labels."""
    found: dict[tuple[str, Labels], float] = {}
    for name, labels, value in _read(text.decode(), openmetrics=openmetrics):
        key = (name.removeprefix("trio_jobs_"), frozenset(labels.items()))
        assert name.startswith("trio_jobs_")
        assert key not in found
        found[key] = value
    return found


def _read(text: str, *, openmetrics: bool) -> Iterator[tuple[str, Mapping[str, str], float]]:
    read = text_string_to_metric_families
    if openmetrics:
        read = openmetrics_parser.text_string_to_metric_families
    for family in read(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


async def numbers_of_all_kinds() -> Numbers:
    """Numbers of a server that has jobs, a file and processes."""
    parts = make_parts()
    job = parts.admission.submit("email", b"1")
    parts.workers.claim(job.id)
    parts.workers.complete(job.id, SUCCEEDED, duration=0.5)
    server = ServerNumbers(
        requests={("/jobs", "POST", 201): 3},
        refusals={},
        connections=2,
        event_streams=1,
        event_loop_lag_seconds=0.25,
    )
    return replace(
        copy_numbers(parts.pool, server=server), has_disk=True, has_database=True, processes=0
    )
