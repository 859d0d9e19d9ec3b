"""`Session`: under which the pump writes; each of its connections begins a new one."""

from typing import NamedTuple


class Session(NamedTuple):
    """A session of a member: rounds of its earlier ones have no effect any more.

    Attributes:
        member: The membership; 0 without one.
        number: Counted by the database.
    """

    member: int
    number: int
