"""One queue with all its processes, and what can be asked of it: jobs in bulk, by HTTP, on time."""

import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Protocol

from bench import ours
from bench.children import ROOT, Child, ChildError
from bench.load import Clients, post
from bench.peers import our_jobs
from bench.peers.environments import Peer
from bench.peers.listener import Listener
from bench.peers.tally import QUIET

# Longer than anything here takes, a worker's start included.
_SECONDS = 60.0

_BATCH = 1_000


class Contestant(Protocol):
    """What takes part in rows 11 to 13."""

    def many(self) -> float:
        """Jobs completed a second, submitted in bulk."""

    def over_http(self) -> float:
        """Jobs completed a second, submitted one by one over HTTP."""

    def paced(self, rate: float) -> list[float]:
        """Seconds from submission to start, at so many a second; in order of length."""


class Ours:
    """trio-jobs: one process.

    Args:
        stack: Ends it.
        jobs: How many each measurement takes.
    """

    def __init__(self, stack: ExitStack, *, jobs: int) -> None:
        self._jobs = jobs
        self._listener = stack.enter_context(Listener(every=jobs))
        server = stack.enter_context(
            ours.running(
                ours.Settings(buffer_size=100_000, handlers=our_jobs.HANDLERS),
                environment=self._listener.environment,
            )
        )
        self._clients = stack.enter_context(Clients(server.port))

    def many(self) -> float:
        """By `POST /jobs/batch`, a thousand at a time."""
        began = time.monotonic()
        batch = b"[" + b",".join([our_jobs.EMPTY] * _BATCH) + b"]"
        self._clients.send(post("/jobs/batch", batch), count=self._jobs // _BATCH)
        done: float = self._listener.wait_for("done", seconds=_SECONDS)
        return self._jobs / (done - began)

    def over_http(self) -> float:
        """By `POST /jobs`."""
        return _over_http(self._clients, self._listener, self._jobs)

    def paced(self, rate: float) -> list[float]:
        """By `POST /jobs`: its time is in the figure."""
        self._clients.send_paced(
            lambda: post("/jobs", our_jobs.stamped(time.monotonic())), count=self._jobs, rate=rate
        )
        return _delays(self._listener)


class Queue:
    """A peer's worker, and its FastAPI application in a process of its own.

    Args:
        stack: Ends them.
        peer: Which one.
        jobs: How many each measurement takes.
        url: Its database.

    Raises:
        ChildError: A process does not start.
    """

    def __init__(self, stack: ExitStack, peer: Peer, *, jobs: int, url: str) -> None:
        self._peer = peer
        self._jobs = jobs
        self._listener = stack.enter_context(Listener(every=jobs))
        folder = stack.enter_context(TemporaryDirectory(prefix="trio-jobs-bench-"))
        self._environment = {
            "PYTHONPATH": str(ROOT),
            "BENCH_URL": url,
            "BENCH_FILE": f"{folder}/jobs.db",
            "BENCH_PEER": peer.module,
            QUIET: "yes",
            **self._listener.environment,
        }
        program, *arguments = peer.worker
        stack.enter_context(self._child(program, *arguments))
        self._clients = stack.enter_context(
            _web(stack, peer, "bench.peers.web_app", self._environment)
        )
        self.many()  # the first jobs wait for the worker's start

    def many(self) -> float:
        """By the peer's best way."""
        with self._producer("many", str(self._jobs)):
            began: float = self._listener.wait_for("began", seconds=_SECONDS)
            done: float = self._listener.wait_for("done", seconds=_SECONDS)
        return (self._jobs - 1) / (done - began)

    def over_http(self) -> float:
        """By its FastAPI application."""
        return _over_http(self._clients, self._listener, self._jobs)

    def paced(self, rate: float) -> list[float]:
        """By its own client: no HTTP in the figure."""
        with self._producer("paced", str(self._jobs), str(rate)):
            return _delays(self._listener)

    def _producer(self, *arguments: str) -> Child:
        return self._child("python", "-m", "bench.peers.producer", self._peer.module, *arguments)

    def _child(self, program: str, *arguments: str) -> Child:
        return Child([self._peer.program(program), *arguments], environment=self._environment)


class BackgroundTasks:
    """FastAPI's own; there is nothing but HTTP to it.

    Args:
        stack: Ends it.
        peer: Its environment.
        jobs: How many each measurement takes.
    """

    def __init__(self, stack: ExitStack, peer: Peer, *, jobs: int) -> None:
        self._jobs = jobs
        self._listener = stack.enter_context(Listener(every=jobs))
        environment = {"PYTHONPATH": str(ROOT), QUIET: "yes", **self._listener.environment}
        self._clients = stack.enter_context(_web(stack, peer, peer.module, environment))

    def over_http(self) -> float:
        """One task a request."""
        return _over_http(self._clients, self._listener, self._jobs)


def _over_http(clients: Clients, listener: Listener, jobs: int) -> float:
    began = time.monotonic()
    clients.send(post("/jobs", our_jobs.EMPTY), count=jobs)
    done: float = listener.wait_for("done", seconds=_SECONDS)
    return jobs / (done - began)


def _delays(listener: Listener) -> list[float]:
    delays: list[float] = listener.wait_for("delays", seconds=_SECONDS)
    return delays


def _web(stack: ExitStack, peer: Peer, module: str, environment: Mapping[str, str]) -> Clients:
    """Start the FastAPI application in the peer's environment, and connect to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [peer.program("uvicorn"), f"{module}:app", "--port", str(port)]
    # Connections idle while the others have their turn.
    command += ["--timeout-keep-alive", "600"]
    stack.enter_context(Child(command, environment=environment))
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            return Clients(port)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise ChildError(f"{' '.join(command)} does not listen") from None
            time.sleep(0.05)
