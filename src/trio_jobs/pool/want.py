"""`Want`: which jobs this server fetches from a database that it shares with other servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Want:
    """Which jobs a round fetches.

    A job whose cancel was requested may be fetched whatever its type, and whether or not it was in
    a crash: it is completed without its handler. It counts only towards ``number``.

    Attributes:
        number: How many at the most.
        types: Only jobs of these types; None for any.
        without: No jobs of these types: they are paused, or at their limits.
        limits: By type, how many more of it may be fetched, at least one; no limit for others.
        suspect: Whether one job that was in a crash may be among them.
    """

    number: int
    types: Sequence[str] | None = None
    without: Sequence[str] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    suspect: bool = True


NOTHING: Final = Want(0)
