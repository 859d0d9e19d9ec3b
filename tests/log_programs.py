"""Programs whose log nobody reads; each is run as a process of its own by ``test_logs.py``.

Run as ``python log_programs.py NAME``.
"""

import logging
import sys
import threading
import warnings

from trio_jobs.logs import start_logging

log = logging.getLogger(__name__)


def logs_much_and_ends() -> None:
    logs = start_logging("INFO", "text")
    for n in range(20_000):
        log.info("line", extra={"n": n})
    logs.write_final("x", logging.ERROR, [("jobs_unfinished", {"job_ids": "a"})], seconds=0.2)


def fails_everywhere_and_ends() -> None:
    start_logging("INFO", "text")
    for _ in range(2_000):
        warnings.warn("for the log", stacklevel=1)
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()


def fail() -> None:
    raise ValueError("x" * 1000)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
