"""Unfinished jobs in the log: every id with its type, many a line, and none is cut."""

import logging
from collections.abc import Mapping
from itertools import chain

import pytest

from tests.support import make_job
from trio_jobs.logs.lines import RENDERERS, event_record
from trio_jobs.store import UnfinishedJobs
from trio_jobs.unfinished import unfinished_lines

ID = "01a210e0-0000-7000-8000-{:012}"


def jobs(begun: Mapping[str, str], not_begun: Mapping[str, str]) -> UnfinishedJobs:
    """Types by id."""
    begun_jobs, not_begun_jobs = (
        [make_job(job_id, type=job_type, payload=b'"secret"') for job_id, job_type in types.items()]
        for types in (begun, not_begun)
    )
    return UnfinishedJobs(begun=begun_jobs, not_begun=not_begun_jobs)


def test_each_type_has_lines_of_its_own_and_those_begun_are_told_apart() -> None:
    lines = list(
        unfinished_lines(jobs({"a": "email"}, {"b": "resize", "c": "email", "d": "resize"}))
    )

    assert lines == [
        ("jobs_interrupted", {"job_type": "email", "job_ids": "a"}),
        ("jobs_not_started", {"job_type": "resize", "job_ids": "b,d"}),
        ("jobs_not_started", {"job_type": "email", "job_ids": "c"}),
    ]


@pytest.mark.parametrize("line_format", ["text", "json"])
@pytest.mark.parametrize("job_type", ["email", "\U0001f4e7" * 1_000_000, "\n\x00\ud800" * 5_000])
def test_no_type_costs_an_id_and_no_payload_is_shown(job_type: str, line_format: str) -> None:
    ids = [ID.format(n) for n in range(1_000)]

    written = b"".join(
        RENDERERS[line_format](event_record("x", logging.ERROR, event, fields))
        for event, fields in unfinished_lines(jobs({}, dict.fromkeys(ids, job_type)))
    )

    assert written.count(b"\n") == 20
    assert [job_id for job_id in ids if job_id.encode() not in written] == []
    assert b"secret" not in written


def test_each_of_very_many_types_is_named() -> None:
    types = {str(n): f"type-{n}" for n in range(10_000)}

    lines = unfinished_lines(jobs({}, types))

    named = chain.from_iterable(
        (job_id, fields["job_type"])
        for _, fields in lines
        for job_id in str(fields["job_ids"]).split(",")
    )
    assert list(named) == list(chain.from_iterable(types.items()))
