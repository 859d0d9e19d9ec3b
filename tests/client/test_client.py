"""`Client`: its thread, the threads that call it, Ctrl-C, and its end."""

import gc
import inspect
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import anyio
import httpx
import pytest

from tests.client.fake_server import FakeServer
from tests.client.support import URL, completed, job_answer, problem
from tests.command import PATIENCE
from trio_jobs.client import AsyncClient, Client, RefusedError


class Silent(httpx.AsyncBaseTransport):
    """Answers nothing.

    Attributes:
        asked: Set by a request.
        cancelled: Set once a request is cancelled.
        on_request: Called in the client's thread.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.cancelled = threading.Event()
        self.on_request: Callable[[], object] = bool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.set()
        self.on_request()
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled.set()
        raise AssertionError


@contextmanager
def client_of(transport: httpx.AsyncBaseTransport) -> Iterator[Client]:
    with Client(URL, http=lambda: httpx.AsyncClient(transport=transport)) as client:
        yield client


async def answer(request: httpx.Request) -> httpx.Response:
    return job_answer(201) if request.method == "POST" else completed(result=[7])


@pytest.fixture
def client() -> Iterator[Client]:
    """A client of a server whose jobs have the result [7]."""
    with client_of(httpx.MockTransport(answer)) as made:
        yield made


def test_methods_wait_for_those_of_the_async_client(client: Client) -> None:
    assert client.run("email", 1, result=list[int]) == [7]
    assert client.wait(client.submit("email")).outcome == "succeeded"
    assert client.result("a1") == [7]
    assert client.get("a1").completed
    assert not client.cancel("a1").completed


def test_client_has_all_methods_of_the_async_client() -> None:
    def methods(kind: type[object]) -> dict[str, inspect.Signature]:
        found = inspect.getmembers(kind, callable)
        return {name: inspect.signature(each) for name, each in found if name[0] != "_"}

    blocking, others = methods(Client), methods(AsyncClient)

    # `slices` is for programs that have an event loop.
    assert {*blocking} - {"close"} == {*others} - {"aclose", "slices"}
    for name in blocking.keys() & others.keys():
        assert blocking[name].parameters == others[name].parameters, name


def test_errors_are_raised_where_the_call_is() -> None:
    with (
        client_of(httpx.MockTransport(lambda _: problem(422, "the key"))) as client,
        pytest.raises(RefusedError, match="422: the key"),
    ):
        client.submit("email")
    with pytest.raises(ValueError, match="url must be like"):
        Client("nowhere")
    with Client(URL) as client, pytest.raises(TypeError, match="missing 1 required"):
        client.submit()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="token must be"):
        Client(URL, token="two words")  # noqa: S106


def test_thread_begins_with_the_first_call_and_ends_with_the_client() -> None:
    def own() -> list[str]:
        return [each.name for each in threading.enumerate() if each.name == "trio_jobs.client"]

    before = own()
    with client_of(httpx.MockTransport(answer)) as client:
        assert own() == before
        client.get("a1")
        client.get("a1")
        assert own() == [*before, "trio_jobs.client"]
    assert own() == before


def test_threads_share_a_client(client: Client) -> None:
    with ThreadPoolExecutor(20) as pool:
        results = [*pool.map(lambda n: client.run("email", n), range(200))]

    assert results == [[7]] * 200


@pytest.mark.usefixtures("pythons_own_ctrl_c")
def test_ctrl_c_ends_a_call_at_once_and_its_request() -> None:
    silent = Silent()
    main = threading.get_ident()
    silent.on_request = lambda: signal.pthread_kill(main, signal.SIGINT)

    with client_of(silent) as client:
        with pytest.raises(KeyboardInterrupt):
            client.wait("a1")
        assert silent.cancelled.wait(PATIENCE)

        silent.cancelled.clear()
        with pytest.raises(KeyboardInterrupt), client.as_completed(["a1"]) as arrivals:
            next(arrivals)
        assert silent.cancelled.wait(PATIENCE)


def test_closing_ends_the_calls_of_other_threads() -> None:
    silent = Silent()
    with ThreadPoolExecutor(2) as pool, client_of(silent) as client:
        waiting = pool.submit(client.wait, "a1")
        loop = pool.submit(lambda: [*client.as_completed(["a1"])])
        assert silent.asked.wait(PATIENCE)
        client.close()

        for future in (waiting, loop):
            with pytest.raises(RuntimeError, match=r"^the client is closed$"):
                future.result(PATIENCE)


def test_closed_client_says_so(client: Client) -> None:
    arrivals = client.as_completed(["a1", "a2"])
    next(arrivals)
    client.close()
    client.close()

    for call in (client.get, client.submit, lambda _: next(arrivals)):
        with pytest.raises(RuntimeError, match=r"^the client is closed$"):
            call("a1")


def test_calls_and_the_close_may_meet_at_any_moment() -> None:
    for _ in range(30):
        with client_of(httpx.MockTransport(answer)) as client, ThreadPoolExecutor(4) as pool:
            client.get("a1")

            def ask_on(client: Client = client) -> None:
                while True:
                    client.get("a1")

            futures = [pool.submit(ask_on) for _ in range(4)]
            client.close()
            for future in futures:
                with pytest.raises(RuntimeError, match=r"^the client is closed$"):
                    future.result(PATIENCE)


def test_call_out_of_the_clients_own_thread_is_refused() -> None:
    errors: list[RuntimeError] = []

    async def handle(_: httpx.Request) -> httpx.Response:
        with pytest.raises(RuntimeError) as caught:
            own.get("a2")
        errors.append(caught.value)
        return completed()

    with client_of(httpx.MockTransport(handle)) as own:
        own.get("a1")

    assert str(errors[0]) == "a call of a blocking client may not make another one"


def test_jobs_arrive_for_a_loop() -> None:
    server = FakeServer()
    with client_of(server) as client:
        jobs = client.submit_many(("email", n) for n in range(100))
        arrivals = client.as_completed(jobs)
        results = [job.result for job in arrivals]
        assert [*arrivals] == []

    assert sorted(results) == [*range(100)]


def test_errors_come_out_of_the_loop() -> None:
    with client_of(httpx.MockTransport(lambda _: problem(403, "not yours"))) as client:
        with pytest.raises(RefusedError, match="403: not yours"):
            next(client.as_completed(["a1"]))
        with pytest.raises(TypeError):
            next(client.as_completed(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [True, False])
def test_loop_that_is_left_ends_its_requests(block: bool) -> None:
    silent = Silent()

    async def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/jobs/a1":
            silent.asked.wait(PATIENCE)
            return completed()
        return await silent.handle_async_request(request)

    with client_of(httpx.MockTransport(handle)) as client:
        arrivals = client.as_completed(["a2", "a1"])
        if block:
            with arrivals:
                next(arrivals)
        else:
            next(arrivals)
            arrivals.close()
        assert silent.cancelled.is_set()
        assert [*arrivals] == []


def test_loop_that_nothing_refers_to_ends_its_requests() -> None:
    silent = Silent()

    async def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/jobs/a1":
            silent.asked.wait(PATIENCE)
            return completed()
        return await silent.handle_async_request(request)

    with client_of(httpx.MockTransport(handle)) as client:
        for _ in client.as_completed(["a2", "a1"]):
            break
        gc.collect()
        assert silent.cancelled.wait(PATIENCE)


def test_arrivals_that_were_never_asked_for_begin_nothing(client: Client) -> None:
    with client.as_completed(["a1"]):
        pass
    assert client.get("a1").completed


PROGRAM = """
import httpx
from trio_jobs.client import Client

job = {"id": "a1", "type": "x", "status": "completed", "created_at": "2026-11-25T08:00:00Z"}
transport = httpx.MockTransport(lambda _: httpx.Response(200, json=job))
client = Client(http=lambda: httpx.AsyncClient(transport=transport))
arrivals = client.as_completed(["a1", "a2"])
print(client.get("a1").id, next(arrivals).id)
"""


def test_program_that_does_not_close_its_client_ends_in_silence() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert (run.returncode, run.stdout, run.stderr) == (0, "a1 a1\n", "")
