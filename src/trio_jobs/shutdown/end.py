"""The end of the process: no code that could change it runs after the last log line."""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from trio_jobs.shutdown.diagnostics import blocks_or_failure, thread_blocks
from trio_jobs.shutdown.hard_limit import HardLimit

# For the threads and `atexit` callbacks of handler modules when the process does not serve: a
# mistake was found, or `--check` has ended.
UNSERVED_SECONDS = 5.0


def end_interpreter(status: int, *, last_words: Callable[[], object] = lambda: None) -> NoReturn:
    """Do what the interpreter does at its end, then say the last words, and exit with ``status``.

    The interpreter itself would wait after the last words, perhaps beyond the hard limit: for
    threads that are no daemons, ``atexit`` callbacks, finalizers, and a flush of standard output,
    whose failure has a status of its own (120). Finalizers of modules do not run; Python does not
    promise them either.
    """
    # multiprocessing ends its children with these two calls; neither has a public name.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # None, closed, a full disk, or user code's own
            stream.flush()
    last_words()
    os._exit(status)


def limit_unserved(status: int) -> None:
    """Have a process that does not serve end with this status, in five seconds at the most.

    Threads or programs that handler modules have started may delay the end. In the main thread.
    """
    limit = HardLimit(
        diagnose=lambda: blocks_or_failure(thread_blocks), render=plain, status=status
    )
    with contextlib.suppress(RuntimeError):  # no thread can be started: the timer still kills
        limit.start()
    limit.arm(since=time.monotonic(), seconds=UNSERVED_SECONDS)


def plain(line: str, below: str, fields: Mapping[str, object]) -> bytes:
    """A block of a report as lines of text."""
    line = " ".join([line, *(f"{name}={value}" for name, value in fields.items())])
    text = "\n  ".join([line, *below.splitlines()])
    return f"{text}\n".encode(errors="backslashreplace")
