"""Looks into errors that may have passed through nurseries, and so arrive in groups."""

from collections.abc import Iterator
from math import inf

import trio


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the single errors of a group and of its nested groups; or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def is_own_cancellation(error: BaseException) -> bool:
    """Whether the error only says that the current task is being cancelled.

    The type alone does not tell: an application can raise a ``Cancelled`` that
    it kept from another scope, and it can fail while it is being cancelled.
    """
    return trio.current_effective_deadline() == -inf and all(
        isinstance(leaf, trio.Cancelled) for leaf in leaves(error)
    )
