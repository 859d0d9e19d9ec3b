"""A program that a handler on Trio runs ends with the job's cancel."""

import signal
import subprocess
from functools import partial
from typing import Any

import pytest
import trio

from trio_jobs import Handler, JobUnsuccessfulError, open_jobs

# Says when it has set up how it ends.
_PROGRAM = ["sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done"]


async def kill(process: trio.Process) -> None:
    process.kill()


@pytest.mark.parametrize(
    ("options", "status"),
    [({}, 3), ({"deliver_cancel": kill}, -signal.SIGKILL)],
    ids=["asked to end", "killed"],
)
async def test_cancel_of_a_job_ends_its_program(options: dict[str, Any], status: int) -> None:
    started: list[trio.Process] = []
    ready = trio.Event()

    async def convert(_payload: object) -> None:
        run = partial(trio.run_process, _PROGRAM, stdout=subprocess.PIPE, **options)
        async with trio.open_nursery() as nursery:
            process = await nursery.start(run)
            started.append(process)
            assert await process.stdout.receive_some() == b"ready\n"
            ready.set()

    async with open_jobs({"convert": Handler.of(convert)}) as jobs:
        job = jobs.submit("convert")
        await ready.wait()
        jobs.cancel(job.id)
        with pytest.raises(JobUnsuccessfulError, match="cancelled"):
            await jobs.result(job.id)
        assert [each.returncode for each in started] == [status]
