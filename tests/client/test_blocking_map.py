"""`Client.map` and `stream`: payloads that block, the thread that pulls them, and the end."""

import asyncio
import contextvars
import itertools
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.client.fake_pipe import FakePipe, Fate, Handle, double
from tests.client.support import URL
from tests.client.test_map import Counted, Doubled
from tests.command import PATIENCE
from trio_jobs.client import Client


@contextmanager
def client_of(handle: Handle = double, *fates: Fate) -> Iterator[tuple[Client, FakePipe]]:
    """A client, and its fake server, whose jobs run in the client's loop."""
    tasks = set()

    def start_soon(function: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        tasks.add(asyncio.get_running_loop().create_task(function(*args)))

    server = FakePipe(start_soon, handle, fates)
    with Client(URL, http=lambda: httpx.AsyncClient(transport=server)) as client:
        yield client, server


def pulling_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "trio_jobs.payloads"]


def test_each_payload_has_one_result() -> None:
    with client_of(double, Fate(cut=300)) as (client, server):
        values = {result.line: result.value() for result in client.map("double", range(300))}

    assert values == {number + 1: 2 * number for number in range(300)}
    assert set(server.runs.values()) == {1}


def test_stream_is_typed_and_ordered_too() -> None:
    async def make(payload: object) -> object:
        return {"number": payload}

    jobs = [("double", number) for number in range(50)]
    with client_of(make) as (client, _):
        results = client.stream(jobs, result=Doubled, ordered=True, in_flight=7)

        assert [result.value() for result in results] == [Doubled(n) for n in range(50)]


def test_payloads_that_block_hold_up_no_result() -> None:
    taken = threading.Semaphore(1)

    def payloads() -> Iterator[int]:
        for number in range(20):
            # Only the result of the payload before lets it go on.
            assert taken.acquire(timeout=PATIENCE)
            yield number

    found = []
    with client_of() as (client, _):
        for result in client.map("double", payloads()):
            found.append(result.value())
            taken.release()

    assert found == [2 * number for number in range(20)]


def test_payloads_are_pulled_as_results_are_taken() -> None:
    payloads = Counted()
    with client_of() as (client, _), client.map("double", payloads, in_flight=16) as results:
        for taken in range(1, 200):
            next(results)
            assert payloads.pulled <= taken + 16

    assert payloads.pulled >= 199


def test_payloads_are_pulled_with_the_context_of_the_call() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    def payloads() -> Iterator[int]:
        yield variable.get()

    variable.set(7)
    with client_of() as (client, _):
        results = client.map("double", payloads())
        variable.set(8)
        assert [result.value() for result in results] == [14]


def test_async_payloads_are_pulled_too() -> None:
    async def payloads() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    with client_of() as (client, _):
        results = client.map("double", payloads(), ordered=True)
        assert [result.value() for result in results] == [0, 2, 4]


@pytest.mark.parametrize("error", [LookupError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_of_the_payloads_comes_out_of_the_loop(error: BaseException) -> None:
    def payloads() -> Iterator[int]:
        yield 1
        raise error

    with client_of() as (client, server):
        with pytest.raises(type(error)) as raised:
            for _ in client.map("double", payloads()):
                pass
        assert raised.value is error
        assert server.open == 0


def test_payloads_that_are_no_iterable_come_out_of_the_loop() -> None:
    with client_of() as (client, _), pytest.raises(TypeError, match="'int' object is not iterable"):
        next(client.map("double", 7))  # type: ignore[call-overload]


def test_thread_ends_with_the_payloads_and_with_the_loop() -> None:
    with client_of() as (client, server):
        assert len([*client.map("double", [1, 2])]) == 2
        for thread in pulling_threads():
            thread.join(PATIENCE)
        for _ in client.map("double", itertools.count()):
            (thread,) = pulling_threads()
            break
        thread.join(PATIENCE)

        assert pulling_threads() == []
        with client.map("double", itertools.count()) as results:
            next(results)
        assert server.open == 0


def test_an_error_in_the_loop_is_the_loops_own() -> None:
    with client_of() as (client, server):
        with (  # noqa: PT012 - the block is tested
            pytest.raises(LookupError, match="mine"),
            client.map("double", range(100)) as results,
        ):
            for _ in results:
                raise LookupError("mine")
        assert server.open == 0


def test_closing_the_client_ends_the_loop() -> None:
    async def never(_: object) -> object:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    def payloads() -> Iterator[int]:
        yield 1
        client.close()

    with client_of(never) as (client, _), pytest.raises(RuntimeError, match="client is closed"):
        next(client.map("double", payloads()))


@pytest.mark.usefixtures("pythons_own_ctrl_c")
def test_ctrl_c_ends_the_loop_at_once() -> None:
    main = threading.get_ident()

    async def interrupt(_: object) -> object:
        signal.pthread_kill(main, signal.SIGINT)
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    with client_of(interrupt) as (client, server):
        with pytest.raises(KeyboardInterrupt), client.map("double", [1]) as results:
            next(results)
        assert server.open == 0
