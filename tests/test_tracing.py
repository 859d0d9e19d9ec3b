"""OpenTelemetry's spans of submissions and attempts, with the SDK, across retries."""

import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.api.support import Api
from tests.support import HandlerRegistry, Parts, make_parts, start_pool
from trio_jobs import GiveUp, Handler, RetryPolicy, Snooze
from trio_jobs.job import Job
from trio_jobs.tracing import Tracing

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@dataclass(kw_only=True)
class Traced:
    """A running pool with its API, and the spans that have ended.

    Attributes:
        api: The API.
        parts: The pool.
        exporter: Has the spans.
    """

    api: Api
    parts: Parts
    exporter: InMemorySpanExporter

    def spans(self, name: str) -> list[ReadableSpan]:
        """The ended spans with this name, in the order of their ends."""
        return [each for each in self.exporter.get_finished_spans() if each.name == name]

    async def submit(self, type_: str, traceparent: str = "", **more: object) -> str:
        """Submit a job over HTTP."""
        headers = {"traceparent": traceparent} if traceparent else {}
        answer = await self.api.client.post("/jobs", json={"type": type_, **more}, **headers)
        assert answer.status == 201
        job_id: str = answer.json()["id"]
        return job_id

    async def run(self, type_: str, traceparent: str = "") -> Job:
        """Submit a job, and wait for its end."""
        job_id = await self.submit(type_, traceparent)
        return await self.ended(job_id)

    async def ended(self, job_id: str) -> Job:
        """The job, once it has ended."""
        job = self.parts.store.find_nowait(job_id)
        if job.ending is None:
            with self.parts.waiters.subscribe(job_id) as completion:
                await completion.wait()
        return self.parts.store.find_nowait(job_id)


@asynccontextmanager
async def traced(
    *handlers: Handler | Callable[..., Any],
    parent: Any = "link",  # noqa: ANN401 - one of two words
    processors: Sequence[SpanProcessor] = (),
) -> AsyncIterator[Traced]:
    """A pool whose handlers have the names of their functions; the block's end drains it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    for each in processors:
        provider.add_span_processor(each)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(parent, provider)
    made = [each if isinstance(each, Handler) else Handler.of(each) for each in handlers]
    registry = HandlerRegistry({each.name.rpartition(":")[2]: each for each in made})
    parts = make_parts(registry, tracing=tracing)
    api = Api(parts=parts, tracing=tracing)
    async with parts.pool.places.open(), trio.open_nursery() as nursery:
        start_pool(parts, nursery)
        yield Traced(api=api, parts=parts, exporter=exporter)
        parts.admission.close()


def context_of(span: ReadableSpan) -> tuple[str, str]:
    """The ids of the span's trace and of the span."""
    context = span.get_span_context()
    assert context is not None
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)


def told(span: ReadableSpan, name: str) -> object:
    """An attribute of the span."""
    return (span.attributes or {}).get(name)


def links_of(span: ReadableSpan) -> list[tuple[str, str]]:
    return [
        (trace.format_trace_id(each.context.trace_id), trace.format_span_id(each.context.span_id))
        for each in span.links
    ]


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else trace.format_span_id(span.parent.span_id)


async def work(payload: object) -> object:
    """A handler that succeeds."""
    return payload


async def test_submission_goes_on_with_the_clients_trace_and_the_run_links_to_it() -> None:
    async with traced(work) as pool:
        job = await pool.run("work", TRACEPARENT)
        shown = (await pool.api.client.get(f"/jobs/{job.id}")).json()

    [submit], [run] = pool.spans("submit work"), pool.spans("run work")
    trace_id, span_id = context_of(submit)
    assert (trace_id, parent_of(submit), submit.kind) == (TRACE, PARENT, SpanKind.PRODUCER)
    assert job.trace == f"00-{trace_id}-{span_id}-01"
    assert shown["trace_id"] == TRACE
    assert links_of(run) == [(trace_id, span_id)]
    assert (parent_of(run), run.kind) == (None, SpanKind.CONSUMER)
    assert context_of(run)[0] != TRACE
    assert dict(submit.attributes or {}) == {
        "messaging.system": "trio_jobs",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": "work",
        "messaging.message.id": job.id,
    }
    assert dict(run.attributes or {}) == {
        "messaging.system": "trio_jobs",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": "work",
        "messaging.message.id": job.id,
        "trio_jobs.attempt": 1,
        "trio_jobs.outcome": "succeeded",
    }
    assert run.status.status_code is StatusCode.UNSET


async def test_first_attempt_is_a_child_of_the_submission_if_that_is_wanted() -> None:
    async with traced(work, parent="child") as pool:
        await pool.run("work", TRACEPARENT)

    [submit], [run] = pool.spans("submit work"), pool.spans("run work")
    assert context_of(run)[0] == TRACE
    assert parent_of(run) == context_of(submit)[1]
    assert links_of(run) == []


@pytest.mark.parametrize("parent", ["link", "child"])
async def test_retries_link_to_the_submission_always(
    parent: str, autojump_clock: trio.testing.MockClock
) -> None:
    attempts: list[int] = []

    async def flaky(payload: object) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise ConnectionError("not now: a secret")

    handler = Handler.of(
        flaky, retry=RetryPolicy(attempts=3, backoff="constant", base=5, jitter=False)
    )
    async with traced(handler, parent=parent) as pool:
        [name] = pool.parts.pool.handlers.table
        job = await pool.run(name, TRACEPARENT)

    [submit], runs = pool.spans(f"submit {name}"), pool.spans(f"run {name}")
    assert [told(each, "trio_jobs.attempt") for each in runs] == [1, 2, 3]
    outcomes = [told(each, "trio_jobs.outcome") for each in runs]
    assert outcomes == ["retrying", "retrying", "succeeded"]
    assert [each.status.status_code for each in runs[:2]] == [StatusCode.ERROR] * 2
    assert [told(each, "error.type") for each in runs] == [
        "ConnectionError",
        "ConnectionError",
        None,
    ]
    assert not any("secret" in str(each.to_json()) for each in runs)
    linked = runs if parent == "link" else runs[1:]
    assert [links_of(each) for each in linked] == [[context_of(submit)]] * len(linked)
    assert len({context_of(each)[0] for each in linked} - {TRACE}) == len(linked)
    if parent == "child":
        assert parent_of(runs[0]) == context_of(submit)[1]
    assert job.trace is not None
    assert job.trace[3:35] == TRACE


async def test_attempt_after_a_snooze_is_no_first_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    calls: list[int] = []

    async def sleepy(payload: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise Snooze(60)

    async with traced(sleepy, parent="child") as pool:
        [name] = pool.parts.pool.handlers.table
        await pool.run(name)

    first, second = pool.spans(f"run {name}")
    assert told(first, "trio_jobs.outcome") == "snoozed"
    assert first.status.status_code is StatusCode.UNSET
    assert (len(first.links), len(second.links)) == (0, 1)


async def test_failures_cancels_and_limits_are_told_apart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def fails(payload: object) -> None:
        raise GiveUp("no")

    async def hangs(payload: object) -> None:
        await trio.sleep_forever()

    async with traced(Handler.of(fails), Handler.of(hangs, timeout=5)) as pool:
        fails_name, hangs_name = pool.parts.pool.handlers.table
        await pool.run(fails_name)
        await pool.run(hangs_name)
        cancelled = await pool.submit(hangs_name)
        await pool.parts.pool.cancel(cancelled)
        await pool.ended(cancelled)

    ends = [
        (told(each, "trio_jobs.outcome"), told(each, "error.type"))
        for each in pool.exporter.get_finished_spans()
        if each.name.startswith("run")
    ]
    assert ends == [("failed", "GiveUp"), ("timed_out", "TimedOut"), ("cancelled", None)]


@pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
async def test_submission_without_a_right_header_begins_a_trace(traceparent: str) -> None:
    async with traced(work) as pool:
        job = await pool.run("work", traceparent)

    [submit], [run] = pool.spans("submit work"), pool.spans("run work")
    assert submit.parent is None
    assert job.trace is not None
    assert job.trace[3:35] == context_of(submit)[0]
    assert links_of(run) == [context_of(submit)]


async def test_jobs_of_a_batch_and_of_a_stream_share_the_span_of_their_request() -> None:
    items = [{"type": "work"}, {"type": "work", "delay": 3600}]
    lines = b"\n".join(map(msgspec.json.encode, items))
    async with traced(work) as pool:
        batch = await pool.api.client.post("/jobs/batch", json=items, traceparent=TRACEPARENT)
        stream = await pool.api.client.post("/jobs/stream", lines, traceparent=TRACEPARENT)
        assert (batch.status, stream.status) == (201, 201)
        jobs = [job async for job in all_jobs(pool.parts)]

    [of_batch], [of_stream] = pool.spans("submit work"), pool.spans("submit")
    assert [told(each, "messaging.batch.message_count") for each in (of_batch, of_stream)] == [2, 2]
    assert [parent_of(each) for each in (of_batch, of_stream)] == [PARENT, PARENT]
    kept = [job.trace[36:52] for job in jobs if job.trace is not None]
    assert sorted(kept) == sorted([context_of(of_batch)[1], context_of(of_stream)[1]] * 2)


async def test_jobs_of_a_pipe_share_the_span_of_their_request() -> None:
    lines = b'{"type":"work"}\n{"type":"none"}\n{"type":"work"}'
    async with traced(work) as pool:
        answer = await pool.api.client.post("/jobs/pipe", lines, traceparent=TRACEPARENT)
        jobs = [job async for job in all_jobs(pool.parts)]

    assert answer.status == 200
    [span] = pool.spans("submit")
    assert told(span, "messaging.batch.message_count") == 2
    assert parent_of(span) == PARENT
    kept = [job.trace[36:52] for job in jobs if job.trace is not None]
    assert kept == [context_of(span)[1]] * 2


async def all_jobs(parts: Parts) -> AsyncIterator[Job]:
    for job in await parts.store.page(limit=100):
        yield job


async def test_refused_submission_is_an_error() -> None:
    async with traced(work) as pool:
        pool.parts.pool.schedule.max_waiting = 0
        answer = await pool.api.client.post("/jobs", json={"type": "work", "delay": 60})

    assert answer.status == 429
    [submit] = pool.spans("submit work")
    assert (submit.status.status_code, told(submit, "error.type")) == (
        StatusCode.ERROR,
        "QueueFullError",
    )


async def test_span_of_the_attempt_is_current_in_each_kind_of_handler() -> None:
    seen: dict[str, tuple[str, str]] = {}

    def note(kind: str) -> None:
        context = trace.get_current_span().get_span_context()
        seen[kind] = (
            trace.format_trace_id(context.trace_id),
            trace.format_span_id(context.span_id),
        )

    async def on_trio(payload: object) -> None:
        await trio.lowlevel.checkpoint()
        note("on_trio")

    def in_thread(payload: object) -> None:
        assert threading.current_thread() is not threading.main_thread()
        note("in_thread")

    async def on_asyncio(payload: object) -> None:
        note("on_asyncio")

    handlers = [
        Handler.of(on_trio),
        Handler.of(in_thread),
        Handler.of(on_asyncio, run="asyncio"),
    ]
    async with traced(*handlers) as pool:
        names = [*pool.parts.pool.handlers.table]
        for name in names:
            await pool.run(name)
        note("outside")

    runs = {name: pool.spans(f"run {name}")[0] for name in names}
    for name in names:
        assert seen[name.rpartition(".")[2]] == context_of(runs[name])
    assert seen["outside"] == ("0" * 32, "0" * 16)


async def test_jobs_that_the_pools_end_interrupts_are_told_as_released() -> None:
    async def hangs(payload: object) -> None:
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        async with traced(hangs) as pool:
            [name] = pool.parts.pool.handlers.table
            await pool.submit(name)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()

    [run] = pool.spans(f"run {name}")
    assert told(run, "trio_jobs.outcome") == "released"


class Raising(SpanProcessor):
    """A processor with a bug."""

    def on_start(self, span: object, parent_context: object = None) -> None:
        raise RuntimeError("in on_start")

    def on_end(self, span: object) -> None:
        raise RuntimeError("in on_end")


async def test_provider_that_raises_harms_no_job_and_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with traced(work, processors=[Raising()]) as pool:
        jobs = [await pool.run("work", TRACEPARENT) for _ in range(3)]

    assert [job.outcome for job in jobs] == ["succeeded"] * 3
    warnings = [each for each in caplog.records if each.message == "tracing_failed"]
    assert [each.levelno for each in warnings] == [logging.WARNING]


async def test_without_a_provider_the_clients_trace_is_kept() -> None:
    tracing = Tracing("link")  # of the program, which has set none
    parts = make_parts(tracing=tracing)
    api = Api(parts=parts, tracing=tracing)

    answer = await api.client.post("/jobs", json={"type": "a"}, traceparent=TRACEPARENT)
    plain = await api.client.post("/jobs", json={"type": "a"})

    [kept, none] = [parts.store.find_nowait(each.json()["id"]).trace for each in (answer, plain)]
    assert (kept, none) == (TRACEPARENT, None)


async def test_server_without_tracing_keeps_no_trace() -> None:
    api = Api()

    answer = await api.client.post("/jobs", json={"type": "a"}, traceparent=TRACEPARENT)

    assert api.parts.store.find_nowait(answer.json()["id"]).trace is None
