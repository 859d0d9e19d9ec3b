"""The end of the process after a stop in order: what is logged last is what happens."""

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn


def end_interpreter(status: int, *, last_words: Callable[[], None]) -> NoReturn:
    """Do what the interpreter does at its end, then say the last words, and exit with ``status``.

    Left to the interpreter, the last words would come before what may take longer than the hard
    limit: threads that are no daemons, what user code has registered with ``atexit``, finalizers,
    or a flush of standard output, whose failure makes a status of its own (120). Finalizers of
    modules do not run, for which Python gives no warrant either.
    """
    # The same two calls that multiprocessing makes at the end of its children; neither has a
    # public name.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # None, closed, a full disk, or user code's own
            stream.flush()
    last_words()
    os._exit(status)
