"""How much of the long checks is run: all of it, or the share that ``SOAK_SHARE`` names."""

import os


def share_of(amount: float) -> float:
    """So much of it: of minutes, of stops, of seeds.

    Args:
        amount: All of it.
    """
    return amount * float(os.environ.get("SOAK_SHARE", "1"))
