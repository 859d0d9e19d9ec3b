"""The metrics: their names are those of the page, their numbers those of the pool."""

import math
import re
from datetime import timedelta

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api.support import handlers_of
from tests.docs.blocks import DOCS
from tests.metrics.support import OPENMETRICS, Exported, numbers_of_all_kinds, samples
from tests.proof.share import few_or_many, others
from tests.support import NOON, SUCCEEDED, RunningPool, make_parts, running_pool
from trio_jobs.job import Job, JobError, Later
from trio_jobs.metrics.families import REASONS, families
from trio_jobs.pool.refusals import AdmissionError, StoreTimeoutError

KINDS = {"counter": "_total", "gauge": "", "histogram": "", "info": "_info"}


async def test_page_names_each_metric_with_its_kind_and_labels() -> None:
    documented = {}
    for line in (DOCS / "reference/metrics.md").read_text().splitlines():
        if (cells := [cell.strip() for cell in line.split("|")])[0:1] == [""] and len(cells) > 5:
            name, kind, labels = cells[1].strip("`"), cells[2], cells[3]
            if kind in KINDS:
                documented[name] = (kind, set(re.findall(r"`(\w+)`", labels)))

    exported = {
        family.name.removeprefix("trio_jobs_") + KINDS[family.type]: (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in families(await numbers_of_all_kinds())
    }
    assert exported == documented


async def test_what_a_pool_does_not_have_is_not_told() -> None:
    names = {name for name, _ in await Exported(make_parts()).scrape()}

    assert not names & {"unwritten", "store_failing_seconds", "processes"}


async def test_reasons_are_there_before_the_first_refusal() -> None:
    exported = Exported(make_parts())
    for each in REASONS:
        assert await exported.value("refused_total", reason=each) == 0


def test_each_error_of_the_admission_has_a_reason() -> None:
    def kinds(kind: type[AdmissionError]) -> list[type[AdmissionError]]:
        return [kind, *(each for sub in kind.__subclasses__() for each in kinds(sub))]

    errors = [each for each in kinds(AdmissionError) if each is not AdmissionError]
    reasons = {each.reason for each in errors} | {StoreTimeoutError.reason}

    assert reasons | {"waiting_full"} == set(REASONS)


async def test_faults_of_submissions_are_refusals_and_others_are_not() -> None:
    exported = Exported(make_parts())
    note = exported.traffic.note_request
    for status in (201, 400, 413, 415, 422, 429, 503, None):
        note("POST", "/jobs", status)
    note("POST", "/jobs/batch", 400)
    note("POST", "/jobs/stream", 400)
    note("GET", "/jobs", 400)
    note("POST", "/jobs/{id}/cancel", 400)

    assert await exported.value("refused_total", reason="invalid") == 6


async def test_refusals_of_the_pool_are_told_by_their_reasons() -> None:
    exported = Exported(make_parts())
    # The status of an answer tells of a fault already.
    exported.exporter.refusals.update({"full": 3, "disk": 1, "invalid": 5})

    assert await exported.value("refused_total", reason="full") == 3
    assert await exported.value("refused_total", reason="invalid") == 0
    assert await exported.value("refused_total", reason="disk") == 1


async def test_answer_that_nobody_waited_for_has_no_status() -> None:
    exported = Exported(make_parts())
    exported.traffic.note_request("GET", "/jobs", None)
    exported.traffic.note_malformed(400)

    labels = {"route": "/jobs", "method": "GET", "code": "none"}
    assert await exported.value("http_requests_total", **labels) == 1
    labels = {"route": "(other)", "method": "(other)", "code": "400"}
    assert await exported.value("http_requests_total", **labels) == 1


async def test_longest_step_is_told_once() -> None:
    exported = Exported(make_parts())
    trio.lowlevel.add_instrument(exported.monitor)
    exported.monitor._longest = 3.0

    assert await exported.value("event_loop_lag_seconds") == 3
    assert await exported.value("event_loop_lag_seconds") < 3
    trio.lowlevel.remove_instrument(exported.monitor)


async def test_state_of_the_pool_is_told() -> None:
    parts = make_parts(workers=3, buffer_size=5)
    exported = Exported(parts)
    for _ in range(4):
        parts.admission.submit("email", b"1")
    parts.store.claim(parts.receive.receive_nowait())
    expected = {
        "buffer_used": 3,
        "buffer_used_peak": 4,
        "buffer_size": 5,
        "workers": 3,
        "workers_busy": 1,
        "stopping": 0,
        "start_time_seconds": parts.pool.now().timestamp(),
    }

    found = await exported.scrape()
    assert {name: found[name, frozenset()] for name in expected} == expected

    parts.admission.intake.pause()
    parts.pool.paused.pause({"email"})
    assert await exported.value("intake_paused") == 1
    assert await exported.value("paused_types") == 1
    parts.admission.close()
    assert await exported.value("stopping") == 1


# Numbers of the jobs, by type.


def refuse(payload: object) -> None:
    """A handler that fails."""
    raise ValueError(payload)


async def accept(payload: object) -> object:
    """A handler that succeeds."""
    return payload


async def wait_for_ever(payload: object) -> None:
    """A handler that ends when it is cancelled."""
    await trio.sleep_forever()


async def wait_ended(pool: RunningPool, job: Job) -> None:
    if pool.ending(job) is None:
        with pool.parts.waiters.subscribe(job.id) as completion:
            await completion.wait()


async def test_jobs_are_counted_by_type_and_outcome() -> None:
    async with running_pool({"a": accept, "b": refuse, "c": wait_for_ever}) as pool:
        jobs = [pool.submit(type_) for type_ in "aabc"]
        for job in jobs[:3]:
            await wait_ended(pool, job)
        exported = Exported(pool.parts)
        busy = await exported.scrape()
        await pool.parts.pool.cancel(jobs[3].id)
        await wait_ended(pool, jobs[3])
        found = await exported.scrape()

    def number(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert [number("jobs_submitted_total", type=each) for each in "abc"] == [2, 1, 1]
    completed = {
        (dict(labels)["type"], dict(labels)["outcome"]): value
        for (name, labels), value in found.items()
        if name == "jobs_completed_total" and value
    }
    assert completed == {("a", "succeeded"): 2, ("b", "failed"): 1, ("c", "cancelled"): 1}
    assert number("jobs_completed_total", type="c", outcome="failed") == 0
    assert [number("attempts_failed_total", type=each) for each in "abc"] == [0, 1, 0]
    assert [number("job_run_seconds_count", type=each) for each in "abc"] == [2, 1, 0]
    assert [number("job_wait_seconds_count", type=each) for each in "abc"] == [2, 1, 0]
    processing = ("jobs", frozenset({("type", "c"), ("status", "processing")}))
    assert (busy[processing], found[processing]) == (1, 0)


async def test_jobs_that_wait_are_told_by_why() -> None:
    clock = [NOON]
    parts = make_parts(now=lambda: clock[0])
    for due in (None, None, 60.0):
        parts.admission.submit("email", b"1", due)
    parts.workers.claim(parts.receive.receive_nowait())
    job = parts.receive.receive_nowait()
    parts.workers.claim(job)
    parts.workers.postpone(job, Later(seconds=60, error=JobError(type="OSError", message="")))
    exported = Exported(parts)

    found = await exported.scrape()

    told = {
        dict(labels)["status"]: value for (name, labels), value in found.items() if name == "jobs"
    }
    assert told == {"pending": 1, "retrying": 1, "held": 0, "processing": 1}
    assert await exported.value("attempts_failed_total", type="email") == 1
    assert await exported.value("waiting") == 2
    assert await exported.value("oldest_pending_seconds") == 0

    parts.admission.submit("email", b"1")
    clock[0] += timedelta(seconds=40)
    assert await exported.value("oldest_pending_seconds") == 40


async def test_held_jobs_are_told_by_type() -> None:
    parts = make_parts(handlers_of({"email": accept, "report": accept}), max_types=1)
    parts.pool.paused.pause(["email", "report"])
    for name in ("email", "email", "report"):
        job = parts.admission.submit(name, b"1")
        parts.workers.claim(parts.receive.receive_nowait())
    exported = Exported(parts)

    async def told() -> dict[tuple[str, str], float]:
        found = await exported.scrape()
        jobs = [(dict(key[1]), value) for key, value in found.items() if key[0] == "jobs"]
        return {(each["type"], each["status"]): value for each, value in jobs if value}

    assert await told() == {("email", "held"): 2, ("(other)", "held"): 1}

    await parts.pool.paused.resume(["email"])
    assert await told() == {("email", "pending"): 2, ("(other)", "held"): 1}

    await parts.pool.cancel(job.id)
    assert await told() == {("email", "pending"): 2, ("(other)", "pending"): 1}


EDGES = [0.0, 2.0**-9, math.nextafter(2.0**-9, 1), 0.3, 0.5, 1.0, 1.001, 2048.0, 2049.0, 1e6]


async def test_buckets_are_exact_at_their_bounds_and_add_up() -> None:
    parts = make_parts()
    for seconds in EDGES:
        job = parts.admission.submit("email", b"1")
        parts.workers.claim(parts.receive.receive_nowait())
        parts.workers.complete(job.id, SUCCEEDED, duration=seconds)

    found = await Exported(parts).scrape()

    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in found.items()
        if name == "job_run_seconds_bucket"
    }
    assert len(buckets) == 22
    for bound, value in buckets.items():
        assert value == sum(each <= bound for each in EDGES), bound
    labels = frozenset({("type", "email")})
    assert found["job_run_seconds_count", labels] == len(EDGES)
    assert found["job_run_seconds_sum", labels] == pytest.approx(sum(EDGES))


async def test_types_beyond_the_bound_are_one_and_each_type_keeps_its_name() -> None:
    parts = make_parts(handlers_of({"known": accept, "default": accept}), max_types=3)
    exported = Exported(parts)

    async def counted() -> dict[str, float]:
        found = await exported.scrape()
        return {
            dict(labels)["type"]: value
            for (name, labels), value in found.items()
            if name == "jobs_submitted_total"
        }

    for type_ in ("x", "y", "z", "known", "z", "x"):
        parts.admission.submit(type_, b"1")
    assert await counted() == {"known": 1, "x": 2, "y": 1, "(other)": 2}
    for type_ in ("z", "w", "x" * 1000):
        parts.admission.submit(type_, b"1")
    assert await counted() == {"known": 1, "x": 2, "y": 1, "(other)": 5}


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
@few_or_many(25, 100)
def test_every_type_is_read_back_as_it_was(accept: str, examples: int) -> None:
    @others
    @settings(max_examples=examples)
    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50))
    def check(type_: str) -> None:
        assert trio.run(submitted, type_) == 1

    async def submitted(type_: str) -> object:
        parts = make_parts(max_types=10)
        parts.admission.submit(type_, b"1")
        _, text = await Exported(parts).exporter.write(accept)
        found = samples(text, openmetrics=bool(accept))
        return found["jobs_submitted_total", frozenset({("type", type_)})]

    check()


@pytest.mark.parametrize(("ui", "max_types"), [(True, None), (False, 5), (False, None)])
async def test_jobs_are_counted_for_the_page_or_for_metrics(
    *, ui: bool, max_types: int | None
) -> None:
    parts = make_parts(ui=ui, max_types=max_types)
    parts.admission.submit("email", b"1")

    found = await Exported(parts).scrape()

    names = {name for name, _ in found}
    assert ("jobs_submitted_total" in names) is (ui or max_types is not None)
    assert found["buffer_used", frozenset()] == 1
