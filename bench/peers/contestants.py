"""Each contestant with its processes, and the three measurements that it takes part in."""

import json
import select
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import ours
from bench.children import ROOT, Child
from bench.load import Clients, post
from bench.measuring import percentile
from bench.peers.environments import Peer, running_web
from bench.peers.tally import EVERY, PACED, QUIET, SOCKET

# Longer than any measurement here takes, with the start of a worker.
_SECONDS = 60.0

_BATCH = 1_000
_EMPTY = b'{"type": "empty"}'
_HANDLERS = '[handlers]\nempty = "bench.workload:count"\nstamp = "bench.workload:stamp"\n'


class SilenceError(Exception):
    """No report came in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverHttp:
    """Jobs completed a second, and the milliseconds in which 99 % of their requests had answers."""

    rate: float
    p99: float


class Contestant:
    """The ear of a contestant: it hears the reports of `tally`, and sends requests.

    Args:
        stack: Closes it.
        jobs: How many jobs the measurement of a rate takes.
        paced: How many jobs that of the delays takes.
    """

    clients: Clients

    def __init__(self, stack: ExitStack, *, jobs: int, paced: int) -> None:
        self.jobs = jobs
        self.paced = paced
        self.folder = stack.enter_context(TemporaryDirectory(prefix="trio-jobs-bench-"))
        path = str(Path(self.folder, "reports"))
        self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        self._socket.bind(path)
        self.environment = {SOCKET: path, EVERY: str(jobs), PACED: str(paced)}

    def over_http(self) -> OverHttp:
        """Submit the jobs one by one over HTTP."""
        began = time.monotonic()
        answers = self.clients.send(repeat(post("/jobs", _EMPTY), self.jobs))
        rate = self.jobs / float(self.hear("done") - began)
        return OverHttp(rate=rate, p99=percentile(answers.delays, 99) * 1000)

    def hear(self, key: str) -> Any:  # noqa: ANN401  (a report's value)
        """Wait for the next report under this key, and pass over others.

        Raises:
            SilenceError: None came in time.
        """
        while select.select([self._socket], [], [], _SECONDS)[0]:
            report = json.loads(self._socket.recv(1_048_576))
            if key in report:
                return report[key]
        raise SilenceError(f"no {key!r} within {_SECONDS:.0f} s")


class Ours(Contestant):
    """trio-jobs: one process."""

    def __init__(self, stack: ExitStack, *, jobs: int, paced: int) -> None:
        super().__init__(stack, jobs=jobs, paced=paced)
        settings = ours.Settings(buffer_size=100_000, handlers=_HANDLERS)
        server = stack.enter_context(ours.running(settings, environment=self.environment))
        self.clients = stack.enter_context(Clients(server.port))

    def many(self) -> float:
        """Submit the jobs in batches, and return how many complete a second."""
        began = time.monotonic()
        batch = b"[" + b",".join([_EMPTY] * _BATCH) + b"]"
        self.clients.send(repeat(post("/jobs/batch", batch), self.jobs // _BATCH))
        return self.jobs / float(self.hear("done") - began)

    def at_a_rate(self, rate: float) -> list[float]:
        """Submit so many a second by `POST /jobs`; the sorted seconds until each job starts."""

        def request() -> bytes:
            return post("/jobs", b'{"type": "stamp", "payload": %r}' % time.monotonic())

        self.clients.send_paced(request, count=self.paced, rate=rate)
        return list(self.hear("delays"))


class Queue(Contestant):
    """A peer: its FastAPI application and, if it has them, its worker and its producer.

    Raises:
        ChildError: A process does not start.
    """

    def __init__(self, stack: ExitStack, peer: Peer, *, jobs: int, paced: int, url: str) -> None:
        super().__init__(stack, jobs=jobs, paced=paced)
        self._peer = peer
        self.environment |= {
            "PYTHONPATH": str(ROOT),
            "BENCH_URL": url,
            "BENCH_FILE": f"{self.folder}/jobs.db",
            "BENCH_PEER": peer.module,
            QUIET: "yes",
        }
        if peer.worker:
            stack.enter_context(self._child(*peer.worker))
        application = "bench.peers.web_app" if peer.worker else peer.module
        web = stack.enter_context(running_web(peer, application, self.environment))
        self.clients = stack.enter_context(Clients(web.port))
        if peer.worker:
            self.many()  # the first jobs wait until the worker has started

    def many(self) -> float:
        """Submit the jobs by the peer's own client, and return how many complete a second."""
        with self._producer("many", str(self.jobs)):
            began = self.hear("began")
            return (self.jobs - 1) / float(self.hear("done") - began)

    def at_a_rate(self, rate: float) -> list[float]:
        """Submit so many a second by the peer's own client, without HTTP."""
        with self._producer("paced", str(self.paced), str(rate)):
            return list(self.hear("delays"))

    def _producer(self, *arguments: str) -> Child:
        return self._child("python", "-m", "bench.peers.producer", self._peer.module, *arguments)

    def _child(self, program: str, *arguments: str) -> Child:
        return Child([self._peer.program(program), *arguments], environment=self.environment)
