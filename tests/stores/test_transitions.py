"""The moves as functions; `test_store.py` has what each changes, through a store."""

from datetime import timedelta

import pytest

from tests.support import NOON, SUCCEEDED, Later, make_job
from trio_jobs import InvalidTransitionError, JobStatus
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
