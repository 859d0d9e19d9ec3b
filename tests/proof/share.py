"""How much of the long checks is run: all of it, or the share that the environment names."""

import os
from zlib import crc32


def share_of(amount: float) -> float:
    """So much of it: of minutes, of stops, of seeds.

    Args:
        amount: All of it.
    """
    return amount * float(os.environ.get("SOAK_SHARE", "1"))


def step_width() -> int:
    """A sweep takes each step; with ``SWEEP_EVERY=4`` each fourth one."""
    return int(os.environ.get("SWEEP_EVERY", "1"))


def first_step(sweep: str) -> int:
    """The first step of a sweep, up to its width.

    Args:
        sweep: Its name: sweeps of one scenario begin at different steps, and take most together.
    """
    return 1 + crc32(sweep.encode()) % step_width()
