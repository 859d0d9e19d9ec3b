"""Jobs of all kinds take their virtual time, whatever the order of Trio's tasks."""

import pytest

from tests.testing.waiting import ends_of_all, handlers
from trio_jobs import Jobs

HANDLERS = handlers()


@pytest.mark.interleavings(50)
@pytest.mark.trio_jobs(HANDLERS, workers=len(HANDLERS))
async def test_jobs_of_all_kinds_end_at_their_times(jobs: Jobs) -> None:
    assert await ends_of_all(jobs) == {type_: 10 * n for n, type_ in enumerate(HANDLERS, 1)}
