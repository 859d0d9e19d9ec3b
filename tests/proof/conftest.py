"""For tests that run the same again and again."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def quiet() -> Iterator[None]:
    """Else each run's tracebacks would be kept for a report."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
