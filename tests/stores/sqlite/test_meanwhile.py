"""What waits for the next commit, and what is called at once."""

from collections.abc import Callable, Iterable
from functools import partial

import pytest

from trio_jobs.stores.sqlite.meanwhile import Meanwhile, is_worth_waiting


def call_all(calls: Iterable[Callable[[], None]]) -> None:
    for call in calls:
        call()


@pytest.mark.parametrize(
    ("submissions", "records", "waits"),
    [(7, 7, False), (8, 8, True), (8, 256, True), (8, 257, False), (0, 8, False), (1, 100, False)],
)
def test_group_waits_until_the_calls_are_made(submissions: int, records: int, waits: bool) -> None:
    seen: list[int] = []
    meanwhile = Meanwhile(call_all, may_wait=True)

    meanwhile.land(submissions=submissions, records=records)
    meanwhile(partial(seen.append, 1))
    assert (bool(meanwhile), seen) == (waits, [] if waits else [1])

    meanwhile.make_calls()
    meanwhile.make_calls()
    assert (bool(meanwhile), seen) == (False, [1])


def test_nothing_waits_without_turns_of_the_loop() -> None:
    seen: list[int] = []
    meanwhile = Meanwhile(call_all, may_wait=False)

    meanwhile.land(submissions=8, records=8)
    meanwhile(partial(seen.append, 1))

    assert seen == [1]


def test_group_does_not_fall_behind_jobs_that_land_alone() -> None:
    seen: list[int] = []
    meanwhile = Meanwhile(call_all, may_wait=True)

    meanwhile.land(submissions=8, records=8)
    meanwhile(partial(seen.append, 1))
    meanwhile.land(submissions=1, records=1)
    meanwhile(partial(seen.append, 2))

    assert seen == [1, 2]


@pytest.mark.parametrize(
    ("under_way", "next_ones", "waits"),
    [
        (0, 8, False),
        (7, 8, False),
        (8, 1, True),
        (256, 256, True),
        (257, 8, False),
        (8, 257, False),
    ],
)
def test_records_wait_for_a_group_that_is_under_way(
    under_way: int, next_ones: int, waits: bool
) -> None:
    assert is_worth_waiting(under_way=under_way, next_ones=next_ones) is waits
