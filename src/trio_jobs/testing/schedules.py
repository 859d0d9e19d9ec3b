"""A schedule that can be repeated: Trio shuffles the tasks that are ready to run."""

from collections.abc import Iterator
from contextlib import contextmanager

from trio._core import _run


@contextmanager
def seeded_schedule(seed: int) -> Iterator[None]:
    """Let this seed decide the order of tasks in what is run meanwhile.

    Unless something else seeds Trio's scheduler meanwhile, as Hypothesis does
    before each example.
    """
    # Trio has no public way to this; Hypothesis and pytest-trio go the same.
    allowed, state = _run._ALLOW_DETERMINISTIC_SCHEDULING, _run._r.getstate()
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
    try:
        yield
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = allowed  # type: ignore[misc]
        _run._r.setstate(state)
