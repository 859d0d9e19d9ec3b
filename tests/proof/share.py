"""How much of the long checks is run: all of it, or the share that the environment names."""

import os
from zlib import crc32


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
    return 1 + (crc32(sweep.encode()) + int(os.environ.get("SWEEP_FROM", "0"))) % step_width()


def swept(sweep: str, steps: int) -> range:
    """The steps that a sweep takes.

    Args:
        sweep: Its name.
        steps: How many the scenario has when nothing happens to it.
    """
    return range(first_step(sweep), steps + 1, step_width())
