"""What runs in a child process: one handler's function at a time, from JSON to JSON.

Nothing but bytes and text crosses: a payload comes as it was submitted, a
result goes as it will be kept, and an exception as its description. So nothing
has to be picklable, and what cannot be encoded fails here, inside the job.
"""

import fcntl
import multiprocessing
import os
import select
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

from trio_jobs.handlers.errors import Failure, describe_failure
from trio_jobs.handlers.handler import Handler, Run, run_plain
from trio_jobs.handlers.loading import load_function

MEANT_FOR_THE_SERVER = frozenset({signal.SIGINT, signal.SIGTERM})


def prepare() -> None:
    """Make this process independent of the terminal's signals, and dependent on its parent.

    Ctrl-C in a terminal and a service manager's SIGTERM reach every process of
    the server; what they mean for the jobs is for the server to say.
    """
    for number in MEANT_FOR_THE_SERVER:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, MEANT_FOR_THE_SERVER)
    if sys.platform == "linux":
        _die_with_parent()


def ready(names: Iterable[str]) -> None:
    """Import the functions, which takes as long as their modules like, but none of their time.

    That it has run shows that the process has started and is prepared.
    """
    for name in names:
        with suppress(BaseException):  # `run_handler` tells
            _find(name)


def run_handler(name: str, payload: bytes, *, max_result_bytes: int) -> bytes | Failure:
    """Run the function of this name; never raises.

    Returns:
        Its result as JSON, or what it raised, be it a ``SystemExit``.
    """
    pid = os.getpid()
    answer: bytes | Failure
    try:
        answer = run_plain(_find(name), payload, max_result_bytes=max_result_bytes)
    except BaseException as error:  # noqa: ASYNC103, BLE001  (it must not end the process)
        answer = describe_failure(error)
    if os.getpid() != pid:
        # It has forked; however the copy comes here, it would answer and take jobs as well.
        os._exit(int(isinstance(answer, Failure)))
    return answer  # noqa: ASYNC104 - no task's: this process has no event loop


@cache
def _find(name: str) -> Handler:
    return Handler.of(load_function(name), run=Run.PROCESS, name=name)


def _die_with_parent() -> None:
    """Let the kernel kill this process when the server is gone, even by ``kill -9``.

    The server holds the only write end of a pipe that multiprocessing gives
    each child; when it closes, the kernel sends the signal that was asked for.
    Not ``PR_SET_PDEATHSIG``: that fires when the *thread* that started the child
    ends, and Trio's threads end after ten idle seconds. Not a thread that waits
    for the pipe: it could not run while a function holds the GIL.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101  (for the type checker: this is a child)
    pipe = parent.sentinel
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([pipe], [], [], 0)[0]:  # it closed before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
