"""``python -m bench.events``: what clients of ``GET /events`` cost, and how long a stop takes."""

import json
import os
import select
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from bench import ours
from bench.children import Server
from bench.load import connect, post
from bench.measuring import Spread, cpu_seconds, resident_bytes, take_turns
from bench.row import spread_text

_STREAM = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
_BATCH = post("/jobs/batch", json.dumps([{"type": f"t{n % 5}"} for n in range(50)]).encode())
_HANDLERS = '[handlers]\npause = "bench.workload:pause"\n'
# Batches of 50 a second: 1,000 jobs.
_RATE = 20


class Streams:
    """Open streams, which a thread reads.

    Attributes:
        bytes: How many bytes all of them have sent so far.
        whole: How many have ended with ``bye``, and with a complete answer.
    """

    def __init__(self, port: int, number: int) -> None:
        self.bytes = self.whole = 0
        self._sockets = {(each := connect(port)).fileno(): each for _ in range(number)}
        self._closing = threading.Event()
        for each in self._sockets.values():
            each.sendall(_STREAM)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def join(self) -> None:
        """Wait until all have ended."""
        self._thread.join()

    def close(self) -> None:
        """Disconnect all."""
        self._closing.set()
        self._thread.join()
        for each in self._sockets.values():
            each.close()

    def _read(self) -> None:
        poll = select.epoll()
        for number in self._sockets:
            poll.register(number, select.EPOLLIN)
        ends = dict.fromkeys(self._sockets, b"")
        while ends and not self._closing.is_set():
            for number, _ in poll.poll(0.2):
                data = b""
                with suppress(ConnectionResetError):
                    data = self._sockets[number].recv(262_144)
                self.bytes += len(data)
                if data:
                    ends[number] = (ends[number] + data)[-200:]
                    continue
                poll.unregister(number)
                end = ends.pop(number)
                self.whole += b"event: bye" in end and end.endswith(b"0\r\n\r\n")


@contextmanager
def load(port: int) -> Iterator[None]:
    """1,000 jobs a second for the length of the block."""
    over = threading.Event()

    def submit() -> None:
        client = connect(port)
        due = time.monotonic()
        while not over.wait(max(due - time.monotonic(), 0)):
            client.sendall(_BATCH)
            answer = client.recv(65536)
            while not answer.endswith(b"]"):
                answer += client.recv(65536)
            due += 1 / _RATE
        client.close()

    thread = threading.Thread(target=submit)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure_cost(numbers: Sequence[int], *, seconds: float, turns: int) -> None:
    """Print the CPU and the bytes with so many streams, measured in turns; the first is 0."""
    sent: dict[int, list[float]] = {number: [] for number in numbers}
    with ours.running(ours.Settings(counts=True)) as server, load(server.port):

        def cpu_with(number: int) -> float:
            streams = Streams(server.port, number)
            time.sleep(1)
            used, bytes_ = cpu_seconds(server.pid), streams.bytes
            time.sleep(seconds)
            points = (cpu_seconds(server.pid) - used) / seconds * 100
            sent[number].append((streams.bytes - bytes_) / seconds / max(number, 1) / 1000)
            streams.close()
            return points

        subjects = {f"{number}": lambda number=number: cpu_with(number) for number in numbers}
        points = take_turns(subjects, turns=turns)
    least = Spread.of(points["0"]).low
    for number in numbers:
        spread = Spread.of(points[f"{number}"])
        print(
            f"{number:3} streams: {spread_text(spread, ' %')} of a core,"
            f" least {spread.low - least:+.1f} points;"
            f" {spread_text(Spread.of(sent[number]), ' kB/s')} a stream"
        )


def measure_memory(number: int) -> None:
    """Print the memory of so many streams of an idle server."""
    with ours.running(ours.Settings(counts=True)) as server:
        Streams(server.port, 5).close()  # what the first ones import
        time.sleep(1)
        before = resident_bytes(server.pid)
        streams = Streams(server.port, number)
        time.sleep(2)
        print(f"memory: {(resident_bytes(server.pid) - before) / number / 1000:.0f} kB a stream")
        streams.close()


def measure_stop(numbers: Sequence[int], *, seconds: float, turns: int) -> None:
    """Print how long a stop takes with so many streams and a job of so many seconds, in turns."""
    ended: dict[int, int] = dict.fromkeys(numbers, 0)

    def stop_with(number: int) -> float:
        with (
            ours.running(ours.Settings(handlers=_HANDLERS, counts=True)) as server,
            ExitStack() as stack,
        ):
            streams = Streams(server.port, number)
            stack.callback(streams.close)
            time.sleep(0.7)
            if seconds:
                client = stack.enter_context(connect(server.port))
                client.sendall(post("/jobs", b'{"type":"pause","payload":%g}' % seconds))
                client.recv(65536)
            began = time.monotonic()
            os.kill(server.pid, signal.SIGTERM)
            _wait_end(server)
            stopped = time.monotonic() - began
            streams.join()
            ended[number] += streams.whole
            return stopped

    subjects = {f"{number}": lambda number=number: stop_with(number) for number in numbers}
    values = take_turns(subjects, turns=turns)
    for number in numbers:
        text = spread_text(Spread.of(values[f"{number}"]), " s")
        print(f"{number:3} streams: {text}; {ended[number]} of {number * (turns + 1)} whole")


def _wait_end(server: Server) -> None:
    ended = os.pidfd_open(server.pid)
    try:
        select.select([ended], [], [])
    finally:
        os.close(ended)


if __name__ == "__main__":
    turns_ = int(os.environ.get("BENCH_TURNS", "4"))
    print("1,000 jobs a second, in batches of 50:")
    measure_cost([0, 20, 99], seconds=6, turns=turns_)
    measure_memory(100)
    for length in (0, 1):
        print(f"a stop with a job of {length} s:" if length else "a stop of an idle server:")
        measure_stop([0, 20, 100], seconds=length, turns=turns_)
