"""File descriptors: raises the soft limit, and computes how many connections fit into it."""

import os
import resource
from pathlib import Path

# Descriptors for handlers, their files and child processes, as long as the limit allows it.
_RESERVE = 512


def raise_limit(*, connections: int, reserved: int = 0) -> int:
    """Raise the soft limit so that connections and reserves fit, as far as the hard limit allows.

    Args:
        connections: How many connections should fit.
        reserved: See ``connection_cap``.

    Returns:
        The soft limit as it is now: unchanged if the system forbids to raise it. Without a limit,
        the number of descriptors that this call asked for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + reserved + _RESERVE + _open_now()
    if soft == resource.RLIM_INFINITY:
        return wanted
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if wanted > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
        return wanted
    return soft


def connection_cap(*, wanted: int, limit: int, reserved: int = 0) -> int:
    """How many connections may be open at once.

    A quarter of the limit (at most 512) stays free for everything else, so
    that a flood of clients never keeps a job from opening a file.

    Args:
        wanted: How many the settings allow.
        limit: The limit on descriptors, from ``raise_limit``.
        reserved: How many descriptors other parts need, beside that quarter.
    """
    reserve = min(_RESERVE, limit // 4) + reserved
    return max(1, min(wanted, limit - _open_now() - reserve))


def _open_now() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).is_dir():
            return len(os.listdir(folder))  # noqa: PTH208 - only their number matters
    return 32
