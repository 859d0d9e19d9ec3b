"""A schedule that a test can repeat: Trio shuffles the tasks that are ready to run."""

from collections.abc import Iterator
from contextlib import contextmanager

from trio._core import _run


@contextmanager
def seeded_schedule(seed: int) -> Iterator[None]:
    """Let this seed decide the order of tasks in every run inside the block.

    Code in the block may seed Trio's scheduler again, as Hypothesis does before
    each example.
    """
    # Trio has no public access to its scheduler's seed. Hypothesis and pytest-trio use this one.
    allowed, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # type: ignore[misc]
        _run._r.setstate(state)
