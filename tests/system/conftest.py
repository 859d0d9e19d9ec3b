"""Fixtures of tests that start processes."""

from collections.abc import AsyncIterator

import pytest
import trio

from trio_jobs.handlers.process_pool import ProcessPool


@pytest.fixture
async def processes() -> AsyncIterator[ProcessPool]:
    """A pool of one child process."""
    with trio.fail_after(60):
        async with ProcessPool(1) as processes:
            yield processes
