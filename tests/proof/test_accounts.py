"""The comparison of the three accounts fails for every kind of disagreement."""

import pytest

from tests.proof.accounts import Ledger, Told, check, check_without_log

# What agrees: "a" has completed; "b" was cut off, "c" not started, "d" cut off without its client.
TOLD = {"a": "1", "b": "2", "c": "3"}
LEDGER = ["begin a 1", "end a 1", "begin b 2", "begin d 4"]
ALL_ENDED = ["begin a 1", "end a 1", "begin b 2", "end b 2", "begin c 3", "end c 3"]
LOG = [
    "ERROR x jobs_interrupted job_type=t job_ids=2,4",
    "ERROR x jobs_not_started job_type=t job_ids=3",
]


def told(**accepted: str) -> Told:
    return Told(accepted=accepted, refused={"r"}, unanswered={"d", "e"})


def test_accounts_that_agree_pass() -> None:
    check(told(**TOLD), Ledger.of(LEDGER), LOG, 1)
    check_without_log(told(**TOLD), Ledger.of(LEDGER), 1)


@pytest.mark.parametrize(
    ("ledger", "log", "status"),
    [
        ([*LEDGER, "begin a 1"], LOG, 1),
        ([*LEDGER, "end a 1"], LOG, 1),
        (["end a 1", *LEDGER[2:]], LOG, 1),
        ([*LEDGER, "begin r 5"], LOG, 1),
        ([*LEDGER, "begin x 5"], LOG, 1),
        (["begin a 9", "end a 9", *LEDGER[2:]], LOG, 1),
        ([*LEDGER, "end b 2"], LOG, 1),
        ([*LEDGER, "begin c 3"], LOG, 1),
        (LEDGER[:1] + LEDGER[2:], LOG, 1),
        (LEDGER[2:], LOG, 1),
        (LEDGER, LOG[:1], 1),
        (LEDGER, [*LOG, LOG[1]], 1),
        (LEDGER, ["ERROR x jobs_interrupted job_type=t job_ids=2", LOG[1]], 1),
        ([*LEDGER[:3], "begin d"], ["ERROR x jobs_interrupted job_type=t job_ids=2", LOG[1]], 1),
        (LEDGER, [*LOG, "ERROR x jobs_interrupted job_type=t job_ids=5,6"], 1),
        (LEDGER, LOG, 0),
        (LEDGER, LOG, 70),
        (ALL_ENDED, [], 1),
    ],
    ids=[
        "a job began twice",
        "a job ended twice",
        "a job ended that had not begun",
        "a refused job ran",
        "a job ran that nobody submitted",
        "a job ran under another id",
        "a job ended, and is named",
        "a job began, and is named as not started",
        "an accepted job did not end, and is not named",
        "an accepted job did not begin, and is not named",
        "the jobs that were not started are not named",
        "a job is named twice",
        "a job whose client has left was cut off, and is not named",
        "the same, of a handler that does not know its id",
        "more are named than were submitted",
        "something was left, and the status is 0",
        "the hard limit",
        "nothing was left, and the status is 1",
    ],
)
def test_accounts_that_disagree_fail(ledger: list[str], log: list[str], status: int) -> None:
    with pytest.raises(AssertionError):
        check(told(**TOLD), Ledger.of(ledger), log, status)


def test_thread_that_returned_too_late_is_named_all_the_same() -> None:
    ledger = Ledger.of([*LEDGER[:2], "begin b", "return b", "begin d 4"])

    check(told(**TOLD), ledger, LOG, 1)


@pytest.mark.parametrize(
    ("ledger", "status"),
    [
        (LEDGER, 0),
        (LEDGER, 70),
        ([*LEDGER, "begin a 1"], 1),
        ([*LEDGER, "begin r 5"], 1),
        ([*ALL_ENDED, "begin d 4"], 0),
        (ALL_ENDED, 70),
    ],
    ids=[
        "something was left, and the status is 0",
        "something was left, and the hard limit came",
        "a job began twice",
        "a refused job ran",
        "a job whose client has left was cut off, and the status is 0",
        "nothing was left, and the hard limit came",
    ],
)
def test_accounts_without_a_log_that_disagree_fail(ledger: list[str], status: int) -> None:
    with pytest.raises(AssertionError):
        check_without_log(told(**TOLD), Ledger.of(ledger), status)
