"""`SortedIds`: beside a sorted list, and where its blocks begin and end."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_jobs.stores.sorted_ids import SortedIds


def ascending(number: int) -> list[str]:
    return [f"{n:06}" for n in range(number)]


def order_of(ids: list[str]) -> SortedIds:
    order = SortedIds()
    for each in ids:
        order.add(each)
    return order


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 999)), max_size=400), st.integers(0, 999))
def test_it_holds_what_was_added_and_not_removed_in_order(
    changes: list[tuple[bool, int]], place: int
) -> None:
    order = order_of(known := [f"{n:03}" for n in range(0, 1000, 3)])

    for wanted, number in changes:
        each = f"{number:03}"
        if wanted and each not in known:
            order.add(each)
            known.append(each)
        elif not wanted and each in known:
            order.remove(each)
            known.remove(each)

    assert list(order) == sorted(known)
    assert list(order.after(f"{place:03}")) == sorted(n for n in known if n > f"{place:03}")
    less = sorted((n for n in known if n < f"{place:03}"), reverse=True)
    assert list(order.before(f"{place:03}")) == less


def test_ids_can_come_and_go_without_end() -> None:
    order = SortedIds()

    for each in (ids := ascending(1000)):
        order.add(each)
        order.remove(each)

    assert list(order) == []
    order.add(ids[-1] + "0")
    assert list(order) == [ids[-1] + "0"]


def test_one_that_stays_keeps_no_others_in_the_way() -> None:
    order = order_of(ids := ascending(100_000))
    stays = ids[::1000]

    for each in ids:
        if each not in stays:
            order.remove(each)

    assert list(islice(order.after(stays[3]), 2)) == stays[4:6]
    assert len(order._blocks) <= len(stays) + 1


@pytest.mark.parametrize("first", ["5000", "9999"])
def test_ids_that_come_backwards_make_no_long_blocks(first: str) -> None:
    order = order_of([first])
    ids = [f"{n:04}" for n in range(4999, 0, -1)]
    for each in ids:
        order.add(each)

    assert list(order.before("~")) == [first, *ids]
    assert max(map(len, order._blocks)) < 200
    assert len(order._blocks) == len(order._bounds) + 1
    for each in ids:
        order.remove(each)
    assert list(order) == [first]
