"""The moves as functions; `test_store.py` has what each changes, through a store."""

from datetime import timedelta

import pytest
from msgspec.structs import replace

from tests.support import NOON, SUCCEEDED, Later, make_job
from trio_jobs import Ending, InvalidTransitionError, JobError, JobStatus, Outcome, Progress
from trio_jobs.job import Extras, Left
from trio_jobs.stores import transitions


def test_moves_leave_the_record_that_they_are_given() -> None:
    job = make_job("a")

    claimed = transitions.claimed(job, NOON)

    assert (job.status, job.attempts) == (JobStatus.PENDING, 0)
    assert (claimed.status, claimed.attempts) == (JobStatus.PROCESSING, 1)
    assert transitions.released(claimed) == job


def test_times_never_go_back_with_the_clock() -> None:
    earlier = NOON - timedelta(hours=1)

    claimed = transitions.claimed(make_job("a"), earlier)
    completed = transitions.completed(claimed, SUCCEEDED, earlier, None)

    assert claimed.started_at == completed.completed_at == NOON


def test_cancel_makes_a_postponed_job_due_now() -> None:
    claimed = transitions.claimed(make_job("a"), NOON)

    before = transitions.postponed(
        transitions.cancel_requested(claimed, NOON), Later(seconds=60), NOON
    )
    after = transitions.cancel_requested(
        transitions.postponed(claimed, Later(seconds=60), NOON), NOON
    )

    assert before == after
    assert before.run_at == NOON


def test_completed_job_cannot_be_cancelled() -> None:
    claimed = transitions.claimed(make_job("a"), NOON)

    with pytest.raises(InvalidTransitionError, match="is completed; it can not be cancelled"):
        transitions.cancel_requested(transitions.completed(claimed, SUCCEEDED, NOON, 1.0), NOON)


LEFT = Left(progress=Progress(done=3, at=NOON), lines=("ERROR shop out of paper",))


def test_attempt_that_fails_leaves_its_progress_and_lines_until_the_next_claim() -> None:
    claimed = transitions.claimed(make_job("a"), NOON)

    waits = transitions.postponed(claimed, Later(seconds=1, left=LEFT), NOON)
    again = transitions.claimed(waits, NOON)

    assert (waits.progress, waits.lines) == (LEFT.progress, LEFT.lines)
    assert (again.progress, again.lines, again.extras) == (None, (), None)


def test_end_without_success_leaves_them_in_the_record_and_not_in_its_ending() -> None:
    claimed = transitions.claimed(make_job("a"), NOON)
    error = JobError(type="E", message="12345")
    failed = Ending(outcome=Outcome.FAILED, error=error, left=LEFT)

    job = transitions.completed(claimed, failed, NOON, 1.0)

    assert (job.progress, job.lines) == (LEFT.progress, LEFT.lines)
    assert job.ending == Ending(outcome=Outcome.FAILED, error=error)
    assert job.size == claimed.size + 5 + len(LEFT.lines[0])


def test_name_trace_and_snoozes_outlast_what_attempts_leave() -> None:
    extras = Extras(submitted_by="billing", trace="00-1-2-01")
    claimed = transitions.claimed(replace(make_job("a"), extras=extras), NOON)

    snoozed = transitions.postponed(claimed, Later(seconds=1, snooze=True, left=LEFT), NOON)
    job = transitions.completed(transitions.claimed(snoozed, NOON), SUCCEEDED, NOON, 1.0)

    assert snoozed.progress == LEFT.progress
    assert job.extras == replace(extras, snoozes=1)
