"""How much of the long checks is run: all of it, or the share that the environment names."""

import os
from collections.abc import Sequence
from math import ceil
from typing import TypeVar
from zlib import crc32

import hypothesis
import pytest

T = TypeVar("T")
Property = TypeVar("Property")

# Of a property that says no number.
ALL_EXAMPLES = 100


def share_of(amount: float) -> float:
    """So much of it: of minutes, of stops, of seeds.

    Args:
        amount: All of it.
    """
    return amount * float(os.environ.get("SOAK_SHARE", "1"))


def soak_width(most: int = 10) -> int:
    """A sweep of the soak takes each step; with a small share it takes fewer.

    Args:
        most: Each so many-th at the least.
    """
    return min(max(round(0.02 / share_of(1)), 1), most)


def step_width() -> int:
    """A sweep takes each step, or seed; with ``SWEEP_EVERY=8`` each eighth one."""
    return int(os.environ.get("SWEEP_EVERY", "1"))


def first_step(sweep: str) -> int:
    """The first step of a sweep, up to its width; ``SWEEP_FROM=1`` names the next one.

    Args:
        sweep: Its name: sweeps of one scenario begin at different steps, and take most together.
    """
    return 1 + (crc32(sweep.encode()) + _sweep_from()) % step_width()


def swept(sweep: str, steps: int) -> range:
    """The steps that a sweep takes.

    Args:
        sweep: Its name.
        steps: How many the scenario has when nothing happens to it.
    """
    return range(first_step(sweep), steps + 1, step_width())


def is_taken(case: str) -> bool:
    """Whether a test that runs in two ways runs the second one in this case, too.

    With ``SWEEP_EVERY=12`` each fourth case does, others with each ``SWEEP_FROM``.

    Args:
        case: Its name.
    """
    width = max(step_width() // 3, 1)
    return crc32(case.encode()) % width == _sweep_from() % width


def one_of(sweep: str, cases: Sequence[T]) -> Sequence[T]:
    """All of these; a share of a sweep takes one, the next one with each ``SWEEP_FROM``."""
    first = crc32(sweep.encode()) + _sweep_from()
    return cases if step_width() == 1 else [cases[first % len(cases)]]


def few_or_many(few: int, many: int) -> pytest.MarkDecorator:
    """How many examples a property has: a few, and as a proof many.

    With ``SWEEP_EVERY=8`` a quarter of the many, which should be `others` then.
    """
    share = max(few, ceil(many * min(2 / step_width(), 1)))
    numbers = [few, pytest.param(share, marks=pytest.mark.proof)]
    return pytest.mark.parametrize("examples", numbers, ids=["few", "many"])


def scaled(examples: int) -> int:
    """How many of so many examples a property has that has them all with ``-m`` alone."""
    return max(examples * hypothesis.settings().max_examples // ALL_EXAMPLES, 5)


def others(tried: Property) -> Property:
    """Let a property, or a state machine, have other examples with each ``SWEEP_FROM``."""
    return hypothesis.seed(_sweep_from())(tried) if _sweep_from() else tried  # type: ignore[type-var]


def rounds(most: int) -> range:
    """The seeds of the rounds that a model may take until each way has been gone.

    Args:
        most: How many rounds. With ``SWEEP_EVERY=8`` eight times as many: each is an eighth.
    """
    first = 1_000 * _sweep_from()
    return range(first, first + most * step_width())


def examples_of_round(examples: int) -> int:
    """How many examples such a round has; with ``SWEEP_EVERY=8`` an eighth of all."""
    return ceil(examples / step_width())


def is_in_part(file: str) -> bool:
    """Whether a file of tests runs: with ``TESTS_PART=2/3``, if it is in the second third.

    Args:
        file: Its path.
    """
    part, parts = map(int, os.environ.get("TESTS_PART", "1/1").split("/"))
    return crc32(file.encode()) % parts == part - 1


def _sweep_from() -> int:
    return int(os.environ.get("SWEEP_FROM", "0"))
