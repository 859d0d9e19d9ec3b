"""File descriptors: the soft limit, and how many connections leave enough of them."""

import os
import resource
from pathlib import Path

# What handlers, their files and child processes can count on, as long as the limit allows it.
_RESERVE = 512


def raise_limit(*, connections: int, reserved: int = 0) -> int:
    """Raise the soft limit as far as ``connections`` and the reserves need it.

    Args:
        connections: How many there shall be.
        reserved: See ``connection_cap``.

    Returns:
        The soft limit as it is now. Not being allowed to raise it is no error.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _unlimited(connections + reserved)
    wanted = _unlimited(connections + reserved)
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
    """How many connections may be open at once under a limit of so many descriptors.

    A quarter of the limit (at most 512) stays free for everything else, so
    that a flood of clients never keeps a job from opening a file.

    Args:
        wanted: As many as are allowed by the settings.
        limit: From ``raise_limit``.
        reserved: What is known to be needed beside that.
    """
    reserve = min(_RESERVE, limit // 4) + reserved
    return max(1, min(wanted, limit - _open_now() - reserve))


def _unlimited(connections: int) -> int:
    return connections + _RESERVE + _open_now()


def _open_now() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        if Path(folder).is_dir():
            return len(os.listdir(folder))  # noqa: PTH208 - only their number matters
    return 32
