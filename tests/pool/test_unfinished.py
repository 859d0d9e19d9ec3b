"""Unfinished jobs in the log: every id with its type, many a line, and none is cut."""

import logging
from collections.abc import Mapping
from itertools import chain
from urllib.parse import unquote

import pytest

from tests.support import make_job
from trio_jobs import LogFormatter
from trio_jobs.logs.formatter import LineFormat, event_record
from trio_jobs.pool.store import UnfinishedJobs
from trio_jobs.pool.unfinished import unfinished_lines

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


def test_waiting_jobs_are_told_apart_and_counted() -> None:
    waiting = [make_job("b", type="email"), make_job("d", type="resize")]
    some = UnfinishedJobs(begun=[], not_begun=[make_job("c", type="email")], waiting=waiting)

    assert list(unfinished_lines(some)) == [
        ("jobs_not_started", {"job_type": "email", "job_ids": "c"}),
        ("jobs_waiting", {"job_type": "email", "job_ids": "b"}),
        ("jobs_waiting", {"job_type": "resize", "job_ids": "d"}),
    ]
    assert (some.count, some.ids) == (3, ([], ["b", "c", "d"]))
    assert UnfinishedJobs(begun=[], not_begun=[], waiting=waiting)
    assert not UnfinishedJobs(begun=[], not_begun=[])


@pytest.mark.parametrize("line_format", ["text", "json"])
@pytest.mark.parametrize("job_type", ["email", "\U0001f4e7" * 1_000_000, "\n\x00\ud800" * 5_000])
def test_no_type_costs_an_id_or_shows_a_payload(job_type: str, line_format: LineFormat) -> None:
    ids = [ID.format(n) for n in range(1_000)]

    written = b"".join(
        LogFormatter(line_format).render(event_record("x", logging.ERROR, event, fields))
        for event, fields in unfinished_lines(jobs({}, dict.fromkeys(ids, job_type)))
    )

    assert written.count(b"\n") == 20
    assert [job_id for job_id in ids if job_id.encode() not in written] == []
    assert b"secret" not in written


@pytest.mark.parametrize("line_format", ["text", pytest.param("json", marks=pytest.mark.proof)])
@pytest.mark.parametrize(
    ("job_type", "most_lines"),
    [
        ("type-{}", 250),
        ("{}, =%\n\"'\\", 250),
        ("{}" + "x" * 1_000, 400),
        pytest.param("{}" + "\U0001f4e7" * 99, 5_050, marks=pytest.mark.proof),
    ],
)
def test_very_many_types_share_lines_and_each_id_has_its_own(
    job_type: str, most_lines: int, line_format: LineFormat
) -> None:
    types = {ID.format(n): job_type.format(n) for n in range(10_000)}

    lines = [fields for _, fields in unfinished_lines(jobs({}, types))]

    assert len(lines) <= most_lines
    assert all("job_type" in fields for fields in lines[:50])
    named = chain.from_iterable(named_in(fields) for fields in lines)
    for (job_id, shown), (expected_id, expected) in zip(named, types.items(), strict=True):
        whole = shown.replace("\N{REPLACEMENT CHARACTER}", "\n")
        assert job_id == expected_id
        assert whole == expected or (
            whole.endswith("\N{HORIZONTAL ELLIPSIS}") and expected.startswith(whole[:-1])
        )
    for fields in lines:
        written = LogFormatter(line_format).render(event_record("x", logging.ERROR, "e", fields))
        assert str(fields["job_ids"]).encode() in written
        assert str(fields.get("job_types", "")).encode() in written


def named_in(fields: Mapping[str, object]) -> list[tuple[str, str]]:
    """The ids of one line, and their types."""
    ids = str(fields["job_ids"]).split(",")
    if "job_type" in fields:
        return [(job_id, str(fields["job_type"])) for job_id in ids]
    types = str(fields["job_types"]).split(",")
    return list(zip(ids, map(unquote, types), strict=True))
