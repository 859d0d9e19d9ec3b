"""The accounts of servers that share jobs excuse only what no server can help."""

import pytest

from tests.proof.shared_accounts import Fates, Run, compare

ROWS: dict[str, tuple[str, str, str | None, int]] = {"j": ("work", "t", "succeeded", 1)}
ENDED = Run(1, 1, 110.0, [115.0, 120.0], 120.0, "end")


def faults(*runs: Run, frozen: tuple[float, float] | None = None) -> list[str]:
    fates = Fates()
    if frozen is not None:
        fates.frozen[2].append(frozen)
    return compare({"t": "j"}, ROWS, {"j": [ENDED, runs[0]], "other": list(runs[1:])}, fates).faults


def test_a_run_that_begins_as_its_process_goes_on_is_cut_and_does_not_count() -> None:
    assert faults(Run(2, 1, 130.0, [], 131.0, "cut"), frozen=(100.0, 129.0)) == [
        "ran, and is not there: other"
    ]


@pytest.mark.parametrize(
    "runs",
    [
        [Run(2, 1, 130.0, [130.5], 131.0, "cut")],
        [Run(2, 1, 130.0, [130.5, 131.0], 131.0, "end")],
        [Run(2, 1, 130.0, [], 131.0, "cut"), Run(2, 1, 129.5, [], 129.7, "cut")],
    ],
    ids=["it took a step", "it ended", "the process had begun another since"],
)
def test_another_run_after_an_end_is_a_fault(runs: list[Run]) -> None:
    assert any("ran again after its end" in each for each in faults(*runs, frozen=(100.0, 129.0)))


def test_a_run_in_a_process_that_stood_still_later_is_a_fault() -> None:
    late = Run(2, 1, 130.0, [], 131.0, "cut")
    for frozen in (None, (111.0, 129.0), (132.0, 140.0)):
        assert any("ran again after its end" in each for each in faults(late, frozen=frozen))
