"""The limit on descriptors, and what it leaves for connections."""

import resource

import pytest

from trio_jobs.server.descriptors import connection_cap, raise_limit

UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits as the kernel has them; the last one counts."""
    kept = [(1024, 4096)]

    def setrlimit(_which: int, new: tuple[int, int]) -> None:
        kept.append(new)

    monkeypatch.setattr(resource, "getrlimit", lambda _which: kept[-1])
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    return kept


def test_the_soft_limit_is_raised_as_far_as_needed(limits: list[tuple[int, int]]) -> None:
    limit = raise_limit(connections=2000)

    assert limits[1:] == [(limit, 4096)]
    assert 2000 + 512 <= limit < 4096


def test_the_soft_limit_is_raised_no_further_than_allowed(limits: list[tuple[int, int]]) -> None:
    assert raise_limit(connections=10_000) == 4096
    assert limits[1:] == [(4096, 4096)]


def test_a_soft_limit_that_is_enough_stays(limits: list[tuple[int, int]]) -> None:
    assert raise_limit(connections=100) == 1024
    assert limits[1:] == []


def test_where_there_is_no_limit_nothing_is_raised(limits: list[tuple[int, int]]) -> None:
    limits.append((UNLIMITED, UNLIMITED))

    assert connection_cap(wanted=10_000, limit=raise_limit(connections=10_000)) == 10_000
    assert limits[2:] == []


def test_a_hard_limit_without_end_allows_what_is_needed(limits: list[tuple[int, int]]) -> None:
    limits.append((256, UNLIMITED))

    assert connection_cap(wanted=10_000, limit=raise_limit(connections=10_000)) == 10_000


def test_not_being_allowed_to_raise_it_is_no_error(
    limits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_which: int, _new: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)

    assert raise_limit(connections=10_000) == limits[0][0]


def test_what_is_reserved_stays_free_beside_the_usual_reserve(
    limits: list[tuple[int, int]],
) -> None:
    assert raise_limit(connections=2000, reserved=100) == raise_limit(connections=2100)

    cap = connection_cap(wanted=10_000, limit=4096, reserved=100)

    assert cap == connection_cap(wanted=10_000, limit=4096) - 100
    assert connection_cap(wanted=10_000, limit=4096, reserved=10_000) == 1


@pytest.mark.parametrize(
    ("wanted", "limit", "low", "high"),
    [
        (10_000, 20_000, 10_000, 10_000),
        (10_000, 4096, 3000, 4096 - 512),
        (10_000, 128, 1, 96),
        (10, 1024, 10, 10),
        (10_000, 8, 1, 1),
    ],
)
def test_the_cap_leaves_a_quarter_of_the_descriptors_but_at_most_512(
    wanted: int, limit: int, low: int, high: int
) -> None:
    assert low <= connection_cap(wanted=wanted, limit=limit) <= high
