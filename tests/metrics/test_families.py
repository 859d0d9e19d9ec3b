"""The metrics: their names are those of the page, their numbers those of the pool."""

import re
from dataclasses import replace

import trio

from tests.docs.blocks import DOCS
from tests.metrics.support import Exported
from tests.support import make_parts
from trio_jobs.metrics.families import REASONS, families
from trio_jobs.metrics.numbers import Numbers, ServerNumbers, copy_numbers
from trio_jobs.pool.refusals import AdmissionError, StoreTimeoutError

KINDS = {"counter": "_total", "gauge": "", "histogram": "", "info": "_info"}


async def numbers_of_all_kinds() -> Numbers:
    """Numbers of a server that has a file and processes."""
    parts = make_parts()
    server = ServerNumbers(
        requests={("/jobs", "POST", 201): 3},
        refusals={},
        connections=2,
        event_loop_lag_seconds=0.25,
    )
    copied = copy_numbers(parts.pool, started_at=parts.pool.now(), server=server)
    return replace(copied, has_file=True, processes=0)


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

    assert reasons | {"paused"} == set(REASONS)


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

    parts.admission.close()
    assert await exported.value("stopping") == 1
