"""Handlers that do not want to end: copied beside ``config.toml``, so without the tests' help."""

import atexit
import ctypes
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path

import trio

# Its functions hold the GIL: a call that rests keeps it as one that computes does.
PYTHON = ctypes.PyDLL(None)
REST = 10_000  # microseconds; a signal ends one of them

# Only an interpreter that has ended in order leaves this behind.
atexit.register(Path(f"ended-{os.getpid()}").touch)


def _say(word: str) -> None:
    os.write(2, f"{word}_began\n".encode())  # past the log, which nobody may be reading


async def _told_to_go() -> None:
    """Wait for the test, which could not get an answer any more: there is a file then."""
    while not os.path.exists("go"):  # noqa: ASYNC110, ASYNC240, PTH110 - by another process
        await trio.sleep(0.01)


async def shielded(_: object) -> None:
    """Hide from every cancellation."""
    _say("shielded")
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def stubborn(_: object) -> None:
    """Swallow each of them."""
    _say("stubborn")
    while True:
        try:
            await trio.sleep_forever()
        except BaseException:  # noqa: BLE001 - that is the point
            with trio.CancelScope(shield=True):
                await trio.sleep(0.05)  # else each checkpoint would raise again


async def blocking(_: object) -> None:
    """Hold the event loop."""
    await _told_to_go()
    _say("blocking")
    time.sleep(3600)  # noqa: ASYNC251 - that is the point


async def awaiting_a_thread(_: object) -> None:
    """Wait for a thread that never returns: Trio does not cancel that."""
    _say("awaiting_a_thread")
    await trio.to_thread.run_sync(time.sleep, 3600)


async def leaving_a_pool(_: object) -> None:
    """Leave a thread pool behind that is busy; Python waits for it at its end."""
    ThreadPoolExecutor(1, "left behind").submit(time.sleep, 3600)
    _say("leaving_a_pool")


async def leaving_a_thread(_: object) -> None:
    """Leave a thread behind."""
    threading.Thread(target=time.sleep, args=(3600,), name="left behind").start()
    _say("leaving_a_thread")


async def holding_the_gil(_: object) -> None:
    """Stay in one call of C for ever: no other thread of Python's runs again."""
    await _told_to_go()
    _say("holding_the_gil")
    sum(map(PYTHON.usleep, repeat(REST)))


async def holding_the_gil_for_a_while(_: object) -> None:
    """Stay in one call of C for some seconds; then wait."""
    await _told_to_go()
    # The call itself says that it has begun, so that nothing of Python's runs after that. It holds
    # the GIL meanwhile: `os.write` lets it go, and a signal could be handled in that moment.
    began_line = b"holding_the_gil_for_a_while_began\n"
    saying = map(PYTHON.write, [2], [began_line], [ctypes.c_size_t(len(began_line))])
    sum(chain(saying, map(PYTHON.usleep, repeat(REST, 3_000_000 // REST))))
    os.write(2, b"the call has returned\n")
    await trio.sleep_forever()


def endless_thread(_: object) -> None:
    """Never return; the server leaves it behind."""
    _say("endless_thread")
    time.sleep(3600)


def endless_process(_: object) -> None:
    """Never return; the server kills it."""
    _say("endless_process")
    time.sleep(3600)
