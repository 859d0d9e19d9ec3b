"""Programs whose log nobody reads; each is run as a process of its own by ``test_logs.py``.

Run as ``python log_programs.py NAME``.
"""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from functools import partial

from trio_jobs.forks import Forks
from trio_jobs.logs.installation import Logs, start_logging
from trio_jobs.settings import LoggingSettings

# How many children there are, and how many lines each logs.
FORKS = 4
FORKS_LINES = 300

log = logging.getLogger(__name__)


def logs_much_and_ends() -> None:
    logs = start_logging(LoggingSettings())
    for n in range(20_000):
        log.info("line", extra={"n": n})
    logs.write_final("x", logging.ERROR, [("jobs_unfinished", {"job_ids": "a"})], seconds=0.2)


def start_logging_with_forks() -> Logs:
    warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
    logs = start_logging(LoggingSettings())
    forks = Forks()
    forks.watch()
    forks.in_child(logs.write_directly)
    return logs


def fork(run: Callable[[], None]) -> int:
    """Run this in a child, which then ends; the child's id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run()
            status = 0
        finally:
            os._exit(status)
    return child


def wait_for(children: list[int]) -> None:
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def forks_among_much() -> None:
    logs = start_logging_with_forks()

    def log_in_child(number: int) -> None:
        for n in range(FORKS_LINES):
            log.info(f"child{number}", extra={"n": n, "pad": "x" * 1000})

    for n in range(FORKS_LINES):
        log.info("parent", extra={"n": n})
    children = [fork(partial(log_in_child, number)) for number in range(FORKS)]
    for n in range(FORKS_LINES):
        log.info("parent", extra={"n": FORKS_LINES + n})
    wait_for(children)
    assert logs.flush_within(seconds=10)


def forks_while_threads_log() -> None:
    logs = start_logging_with_forks()
    over = threading.Event()

    def log_much() -> None:
        while not over.wait(0.0001):
            log.info("thread")

    threads = [threading.Thread(target=log_much) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(100):
        wait_for([fork(partial(log.info, "child", extra={"n": n}))])
    over.set()
    for thread in threads:
        thread.join()
    assert logs.flush_within(seconds=10)


def becomes_a_daemon_and_logs() -> None:
    start_logging_with_forks()

    def log_in_child() -> None:
        os.closerange(0, 100)
        for _ in range(50):
            os.open("data", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(20, b"data")
        log.info("line")

    wait_for([fork(log_in_child)])


def logs_in_a_child_and_ends() -> None:
    logs = start_logging_with_forks()
    for n in range(1000):
        log.info("parent", extra={"n": n})

    def log_in_child() -> None:
        for n in range(1000):
            log.info("child", extra={"n": n})
        assert logs.flush_within(seconds=100)

    wait_for([fork(log_in_child)])


if __name__ == "__main__":
    globals()[sys.argv[1]]()
