"""Which lines are done: marks, counts, repetitions; a byte for each line."""

from hypothesis import given
from hypothesis import strategies as st

from trio_jobs.commands.run.done_lines import DoneLines


@given(st.lists(st.tuples(st.integers(1, 300), st.booleans())))
def test_lines_are_done_as_they_were_first_marked(marks: list[tuple[int, bool]]) -> None:
    done = DoneLines()
    expected: dict[int, bool] = {}
    for number, failed in marks:
        done.mark(number, failed=failed)
        expected.setdefault(number, failed)

    assert [number for number in range(500) if done.is_done(number)] == sorted(expected)
    assert list(done.failures()) == sorted(number for number, failed in expected.items() if failed)
    assert all(done.has_failed(number) is failed for number, failed in expected.items())
    assert done.number == len(expected)
    assert done.failed == sum(expected.values())


def test_forgotten_failures_are_not_done_and_keep_their_repetitions() -> None:
    done = DoneLines()
    done.mark(1, failed=False)
    done.mark(2, failed=True)
    done.repeat([2, 2, 9])

    done.forget_failures()

    assert [done.is_done(1), done.is_done(2), done.number] == [True, False, 1]
    assert [done.repeats(1), done.repeats(2), done.repeats(9), done.repeats(10_000)] == [0, 2, 1, 0]


def test_repetitions_end_before_they_reach_the_marks() -> None:
    done = DoneLines()
    done.repeat([3] * 100)

    assert (done.repeats(3), done.is_done(3), done.has_failed(3)) == (63, False, False)


def test_a_line_takes_little_more_than_a_byte() -> None:
    done = DoneLines()
    for number in range(1, 200_001):
        done.mark(number, failed=False)

    assert len(done._bytes) <= 300_002
    assert done.number == 200_000
