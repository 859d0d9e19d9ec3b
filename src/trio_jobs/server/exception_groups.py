"""Looking into errors that may have come out of a nursery, and so in groups."""

from collections.abc import Iterator
from math import inf

import trio


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group and in the groups in it; a single error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def is_own_cancellation(error: BaseException) -> bool:
    """Whether the error says no more than that this task is being cancelled.

    The type alone does not tell: an application can raise a ``Cancelled`` that
    it has kept from elsewhere, and what else it raises while it is being
    cancelled is a fault of its own.
    """
    return trio.current_effective_deadline() == -inf and all(
        isinstance(leaf, trio.Cancelled) for leaf in leaves(error)
    )
