"""Programs that do not want to end; each is run as a process of its own by ``test_stop.py``.

Run as ``python stop_programs.py NAME``. They signal themselves, which is exact, and say on
standard output how far they have come.
"""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time

import trio

from trio_jobs.settings import HttpSettings, PoolSettings
from trio_jobs.shutdown.diagnostics import Line
from trio_jobs.shutdown.stop import Stop

LONG = 60

# Ends the process 0.2 s after the first signal, and so far into the second's limit.
HTTP = HttpSettings(graceful_timeout=0)

stop = Stop(PoolSettings(grace_period=0.1), HTTP, margin=0.1)
patient = Stop(PoolSettings(grace_period=LONG), HTTP, margin=0.5)


class OneJob:
    """The report about one job, which two lines are about."""

    def lines(self) -> list[Line]:
        """Name it."""
        return [("job_unfinished", {"job_id": "a"})]

    def unnamed(self) -> list[Line]:
        """The line at the end."""
        return [("not_all_named", {"count": 1})]


def say(word: str) -> None:
    print(word, flush=True)  # noqa: T201 - how the test follows the program


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def hang() -> None:
    time.sleep(LONG)


def connect(stop: Stop) -> tuple[trio.Event, trio.Event]:
    """Two events: the first signal has come, the second one has."""
    first, second = trio.Event(), trio.Event()
    stop.connect(drain=first.set, cancel=second.set, report=OneJob())
    return first, second


async def insist() -> None:
    await trio.sleep(0.25)  # longer than a repetition that does not count
    terminate()


def ends_in_order() -> None:
    async def main() -> None:
        first, _ = connect(patient)
        say("ready")
        await first.wait()
        say("requested")

    patient.install()
    trio.run(main)


class SignalsAtItsEnd:
    """Signals this process when the interpreter clears its modules, the last thing it does."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def is_signalled_while_the_interpreter_ends() -> None:
    globals()["kept"] = SignalsAtItsEnd()
    ends_in_order()


def blocks_the_loop() -> None:
    async def main() -> None:
        connect(stop)
        terminate()
        time.sleep(LONG)  # noqa: ASYNC251 - what a handler must not do

    stop.install()
    trio.run(main)


def hides_behind_a_shield() -> None:
    async def hide() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(LONG)

    async def main() -> None:
        connect(stop)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hide)
            nursery.start_soon(hide)
            terminate()
            nursery.cancel_scope.cancel()

    stop.install()
    trio.run(main)


def blocks_at_exit() -> None:
    stop.install()
    terminate()
    atexit.register(hang)


def cannot_name_its_jobs() -> None:
    class Jobs(OneJob):
        def lines(self) -> list[Line]:
            raise RuntimeError

    stop.report = Jobs()
    stop.install()
    terminate()
    hang()


def hangs_after_a_crash() -> None:
    stop.install()
    stop.arm_after_crash()
    hang()


def is_signalled_after_a_crash() -> None:
    patient.install()
    patient.arm_after_crash()
    terminate()  # it has a limit of its own, a minute later
    hang()


def cannot_report() -> None:
    def render(*_: object) -> bytes:
        raise RuntimeError("no report")

    silent = Stop(PoolSettings(grace_period=0.1), HTTP, margin=0.1, render=render)
    silent.install()
    terminate()
    hang()


def holds_the_gil() -> None:
    stop.install()
    terminate()
    sum(range(10**12))


def ignores_sigalrm_and_holds_the_gil() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    holds_the_gil()


def holds_the_gil_in_a_thread() -> None:
    """Let the thread of the signals arm the limit; then no thread of Python's runs any more."""
    in_c = threading.Event()

    def signal_and_hold_the_gil() -> None:
        while not in_c.is_set():  # `wait` would take the lock within `set`
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        while stop.at is None:
            time.sleep(0.01)
        sum(range(10**12))

    async def main() -> None:
        connect(stop)
        threading.Thread(target=signal_and_hold_the_gil).start()
        library = ctypes.CDLL(None)
        mutex = ctypes.create_string_buffer(64)
        library.pthread_mutex_lock(mutex)
        sys.setswitchinterval(LONG)  # the other thread runs when this one waits in C
        in_c.set()
        library.pthread_mutex_lock(mutex)  # for ever, so Python runs no signal handler

    stop.install()
    trio.run(main)


def hangs_after_the_second_signal() -> None:
    async def main() -> None:
        connect(patient)
        terminate()
        await insist()
        time.sleep(LONG)  # noqa: ASYNC251 - what a handler must not do

    patient.install()
    trio.run(main)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
