"""The job record: a value that nobody can change, and the table of its moves."""

import gc

import msgspec
import pytest

from tests.support import NOON, make_job
from trio_jobs.job import Ending, Job, JobError, JobStatus, Outcome

FAILED = Ending(outcome=Outcome.FAILED, error=JobError(type="ValueError", message="no"))


def test_new_job_is_pending_and_nothing_has_happened_to_it() -> None:
    job = Job(id="a", type="email", payload=b"{}", created_at=NOON)

    assert job.status is JobStatus.PENDING
    assert (job.started_at, job.completed_at, job.ending) == (None, None, None)
    assert not job.cancel_requested


@pytest.mark.parametrize("value", [make_job("a"), FAILED, FAILED.error])
def test_records_cannot_be_changed(value: msgspec.Struct) -> None:
    for field in value.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(value, field, None)


def test_fields_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        Job("a", "email", b"{}", NOON)  # type: ignore[call-arg]


def test_statuses_and_outcomes_are_the_words_of_the_api() -> None:
    assert [str(status) for status in JobStatus] == ["pending", "processing", "completed"]
    assert [str(outcome) for outcome in Outcome] == [
        "succeeded",
        "failed",
        "timed_out",
        "cancelled",
        "interrupted",
    ]


def test_outcome_is_that_of_the_ending() -> None:
    job = make_job("a")

    assert job.outcome is None
    assert msgspec.structs.replace(job, ending=FAILED).outcome is Outcome.FAILED


def test_size_counts_the_bytes_that_a_client_or_a_handler_chose() -> None:
    job = make_job("a", type="type", payload=b"payload")
    succeeded = Ending(outcome=Outcome.SUCCEEDED, result=b"result")
    failed = Ending(outcome=Outcome.FAILED, error=JobError(type="ValueError", message="wörd"))

    assert job.size == len("type") + len("payload")
    assert msgspec.structs.replace(job, ending=succeeded).size == job.size + len("result")
    assert msgspec.structs.replace(job, ending=failed).size == job.size + len(b"w\xc3\xb6rd")


def test_size_can_be_taken_of_any_text() -> None:
    assert make_job("a", type="\ud800", payload=b"").size == 3


def test_jobs_cost_the_garbage_collector_nothing() -> None:
    job = msgspec.structs.replace(make_job("a"), ending=FAILED)

    assert not any(gc.is_tracked(value) for value in (job, job.ending, FAILED.error))
