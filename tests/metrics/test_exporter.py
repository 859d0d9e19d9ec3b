"""`GET /metrics`: its formats, its thread, one scrape at a time."""

import threading
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.api.support import Api, FakeMetrics, assert_problem
from tests.metrics.support import OPENMETRICS, TEXT, Exported, samples
from tests.support import make_parts
from trio_jobs.metrics import exporter
from trio_jobs.metrics.exporter import prefers_openmetrics

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/html", False),
        ("text/plain;version=0.0.4", False),
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text ; Q=0.1", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.4, text/plain;q=0.5", False),
        ("application/openmetrics-text;q=nonsense", False),
        ("application/openmetrics-text;q=nan", False),
        (";;,,;q=,application/openmetrics-text", True),
    ],
)
def test_format_is_what_the_client_prefers(accept: str, *, wanted: bool) -> None:
    assert prefers_openmetrics(accept) is wanted


@pytest.mark.parametrize("accept", ["", PROMETHEUS_3])
async def test_both_formats_have_the_same_numbers(accept: str) -> None:
    parts = make_parts(buffer_size=7)
    parts.admission.submit("email", b"1")
    exported = Exported(parts)
    exported.traffic.note_request("GET", "/jobs", 200)

    media_type, text = await exported.exporter.write(accept)

    assert media_type == (OPENMETRICS if accept else TEXT)
    found = samples(text, openmetrics=bool(accept))
    assert found["buffer_used", frozenset()] == 1
    assert found["buffer_size", frozenset()] == 7
    labels = {"route": "/jobs", "method": "GET", "code": "200"}
    assert found["http_requests_total", frozenset(labels.items())] == 1


async def test_route_answers_with_the_writers_text_for_the_requests_accept() -> None:
    api = Api(metrics=FakeMetrics())

    answer = await api.client.get("/metrics", accept="a/b")

    assert (answer.status, answer.body) == (200, b"a/b")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["cache-control"] == "no-store"
    assert_problem(await api.client.get("/metrics?name[]=x"), 400)
    assert_problem(await api.client.post("/metrics"), 405)


async def test_server_without_metrics_has_no_such_route() -> None:
    assert_problem(await Api().client.get("/metrics"), 404)


class SlowWriter:
    """Stands for the writer: writes when it is let go.

    Attributes:
        threads: The thread of each call.
        begun: Is set once a call has begun.
        go_on: Lets all calls end.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self._write = exporter._write
        monkeypatch.setattr(exporter, "_write", self)

    def __call__(self, *args: object) -> object:
        self.threads.append(threading.get_ident())
        self.begun.set()
        assert self.go_on.wait(30)
        return self._write(*args)  # type: ignore[arg-type]


async def test_a_thread_writes_and_a_second_scrape_waits_for_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = SlowWriter(monkeypatch)
    parts = make_parts()
    exported = Exported(parts)
    used: list[float] = []

    async def scrape() -> None:
        used.append(await exported.value("buffer_used"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scrape)
        await trio.to_thread.run_sync(writer.begun.wait, 30)
        nursery.start_soon(scrape)
        await wait_all_tasks_blocked()
        assert len(writer.threads) == 1
        parts.admission.submit("email", b"1")  # the loop goes on
        writer.go_on.set()

    assert len(writer.threads) == 2
    assert threading.get_ident() not in writer.threads
    assert used == [0, 1]  # each has the numbers of the time when its turn came


async def test_scrapes_do_not_need_the_threads_of_handlers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = SlowWriter(monkeypatch)
    writer.go_on.set()
    monkeypatch.setattr(trio.to_thread.current_default_thread_limiter(), "total_tokens", 1)
    held = threading.Event()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, held.wait, 30)
        await wait_all_tasks_blocked()
        with suppress(KeyError):
            await Exported(make_parts()).value("none")
        held.set()

    assert len(writer.threads) == 1


async def test_process_without_a_free_thread_is_still_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", fail)

    assert await Exported(make_parts()).value("workers") == 2


async def test_scrape_that_waits_can_be_cancelled_and_the_next_one_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = SlowWriter(monkeypatch)
    exported = Exported(make_parts())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exported.scrape)
        await trio.to_thread.run_sync(writer.begun.wait, 30)
        with trio.CancelScope() as waiting:
            nursery.start_soon(_cancel_when_blocked, waiting)
            await exported.scrape()
        assert waiting.cancelled_caught
        writer.go_on.set()

    assert await exported.value("buffer_used") == 0


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()
