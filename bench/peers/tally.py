"""The body of each measured job: it counts itself.

The measuring process gets a datagram on a Unix socket for every so many jobs.
"""

import itertools
import json
import logging
import os
import socket
import threading
import time

# A path, a number of empty jobs and one of delays that make a report, and whether to log less; set
# by the measuring process.
SOCKET = "BENCH_SOCKET"
EVERY = "BENCH_EVERY"
PACED = "BENCH_PACED"
QUIET = "BENCH_QUIET"

if QUIET in os.environ:
    # A log line for each job costs some peers more than the job. trio-jobs writes none by default.
    logging.disable(logging.INFO)

_every = int(os.environ.get(EVERY, "0")) or None
_paced = int(os.environ.get(PACED, "0"))
_counter = itertools.count(1)  # its next() is atomic: some peers' jobs run in threads
_lock = threading.Lock()
_delays: list[float] = []


def count() -> None:
    """One empty job has run."""
    if next(_counter) % (_every or 1) == 0:
        report({"done": time.monotonic()})


def arrived(sent: float) -> None:
    """A job has started that was submitted at this time, by the monotonic clock."""
    delay = time.monotonic() - sent
    with _lock:
        _delays.append(delay)
        if len(_delays) == _paced:
            report({"delays": sorted(_delays)[::2]})  # half of them fit into a datagram
            _delays.clear()


def report(message: dict[str, object]) -> None:
    """Tell the measuring process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(json.dumps(message).encode(), os.environ[SOCKET])
