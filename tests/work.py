"""The users' functions of the tests over the real command: copied beside its ``config.toml``.

So nothing here may import the tests. `tests.command.Gate` is the other end of the gate.
"""

import logging
import os
import threading
import time

import trio

log = logging.getLogger(__name__)


def note(payload: object) -> None:
    """Put a line into the ledger: what has really run, whatever the server says about it."""
    ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{payload}\n".encode())
    os.close(ledger)


async def wait_for_gate() -> None:
    """Wait until the test opens the gate."""
    gate = os.open("gate", os.O_RDONLY | os.O_NONBLOCK)
    try:
        await trio.lowlevel.wait_readable(gate)  # nobody reads what is in it: it stays open
    finally:
        os.close(gate)


async def at_the_gate(payload: object) -> None:
    """Say so, wait until the test opens the gate, and note it."""
    log.info("at_the_gate", extra={"payload": payload})
    await wait_for_gate()
    note(payload)


async def quick(payload: object) -> object:
    """End at once."""
    log.info("quick_ran")
    note(payload)
    return payload


def in_thread(payload: object) -> object:
    """End at once, in a thread."""
    log.info("thread_ran")
    note(payload)
    return payload


async def short(payload: object) -> None:
    """Take a moment, so that jobs wait for a worker."""
    await trio.sleep(0.01)
    note(payload)


async def stubborn(_payload: object) -> None:
    """Swallow every cancellation."""
    log.info("stubborn_began")
    while True:
        try:
            await trio.sleep_forever()
        except BaseException:  # noqa: BLE001 - that is the point
            log.info("cancellation_swallowed")
            # Else this would be a busy loop: every checkpoint raises again.
            with trio.CancelScope(shield=True):
                await trio.sleep(0.1)


async def shielded(_payload: object) -> None:
    """Hide from every cancellation."""
    log.info("shielded_began")
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


async def block_loop(seconds: float) -> None:
    """Hold the event loop once the gate is open; say so first."""
    await wait_for_gate()  # else the submission might not be answered before
    os.write(2, b"block_loop_began\n")  # past the log, whose thread may not get to it
    time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    note("blocked")


async def leave_thread(_payload: object) -> None:
    """Leave a thread behind that Python waits for at its end."""
    threading.Thread(target=time.sleep, args=(3600,), name="left behind").start()


async def fail(message: str) -> None:
    """Fail with this message."""
    raise ValueError(message)
