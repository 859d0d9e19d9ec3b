"""Handlers that work for a moment and wait for so many seconds, each in a way of its own."""

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable  # noqa: TC003 - handlers are imported with it
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import trio
from trio.from_thread import run as run_in_trio  # by name, as many modules have it

from trio_jobs import Handler, Jobs


def work() -> None:
    """Give Trio the time to jump, if it would."""
    threading.Event().wait(0.0005)


def sleep_in_thread(seconds: float) -> float:
    work()
    time.sleep(seconds)
    work()
    return seconds


def sleep_in_trio_from_thread(seconds: float) -> float:
    work()
    run_in_trio(trio.sleep, seconds)
    work()
    return seconds


async def sleep_in_trio(seconds: float) -> float:
    await trio.sleep(seconds)
    return seconds


async def await_thread_in_trio(seconds: float) -> float:
    with trio.fail_after(0.001):
        await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))
    return await trio.to_thread.run_sync(sleep_in_thread, seconds)


async def run_program_in_trio(seconds: float) -> float:
    with trio.fail_after(0.001):
        await trio.run_process(["sleep", "0.02"])
    await trio.sleep(seconds)
    return seconds


async def sleep_in_asyncio(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def await_timeout_in_asyncio(seconds: float) -> float:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.Event().wait()
    return seconds


async def await_queue_in_asyncio(seconds: float) -> float:
    queue: asyncio.Queue[float] = asyncio.Queue()
    asyncio.get_running_loop().call_later(seconds, queue.put_nowait, seconds)
    return await queue.get()


async def await_threads_in_asyncio(seconds: float) -> float:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as executor:
        await loop.run_in_executor(executor, sleep_in_thread, seconds / 2)
    return 2 * await asyncio.to_thread(sleep_in_thread, seconds / 2)


async def await_http_in_asyncio(seconds: float) -> float:
    async def answer(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(seconds / 2)
        return httpx.Response(200, content=request.content)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        response = await client.post("http://api.test", content=str(seconds / 2))
    return 2 * await asyncio.to_thread(sleep_in_thread, float(response.text))


async def run_programs_in_asyncio(seconds: float) -> float:
    async with asyncio.timeout(0.001):
        program = await asyncio.create_subprocess_exec("sleep", "0.02")
        assert await program.wait() == 0
        program = await asyncio.create_subprocess_shell(
            "sleep 0.02; echo said", stdout=subprocess.PIPE
        )
        output, _ = await program.communicate()
        assert output == b"said\n"
    await asyncio.sleep(seconds)
    return seconds


_IN_THREADS = (sleep_in_thread, sleep_in_trio_from_thread)
_IN_TRIO = (sleep_in_trio, await_thread_in_trio, run_program_in_trio)
_IN_ASYNCIO = (
    sleep_in_asyncio,
    await_timeout_in_asyncio,
    await_queue_in_asyncio,
    await_threads_in_asyncio,
    await_http_in_asyncio,
    run_programs_in_asyncio,
)


def handlers(*, timeout: float | None = None) -> dict[str, Handler]:
    """All of them, by name."""
    of_kind: list[tuple[str, tuple[Callable[..., Any], ...]]] = [
        ("thread", _IN_THREADS),
        ("trio", _IN_TRIO),
        ("asyncio", _IN_ASYNCIO),
    ]
    return {
        each.__name__: Handler.of(each, run=run, timeout=timeout)
        for run, functions in of_kind
        for each in functions
    }


async def ends_of_all(jobs: Jobs) -> dict[str, float]:
    """Run a job of each type at the same time, of 10, 20, 30 … seconds; the times of their ends."""
    ends = {}

    async def run(type_: str, seconds: float) -> None:
        await jobs.result(jobs.submit(type_, seconds).id)
        ends[type_] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for n, type_ in enumerate(handlers(), 1):
            nursery.start_soon(run, type_, 10 * n)
    return ends
