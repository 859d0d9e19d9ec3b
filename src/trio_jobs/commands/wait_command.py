"""`trio-jobs wait`: waits for the end of jobs, and shows each."""

import math
import time
from argparse import ArgumentParser, Namespace

from trio_jobs.commands.durations import job_id, seconds_of
from trio_jobs.commands.each_job import run_for_each
from trio_jobs.commands.output import json_line, write_line
from trio_jobs.commands.server_calls import open_calls
from trio_jobs.commands.server_option import add_server_options
from trio_jobs.commands.waiting import check_success, wait_for


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("ids", metavar="ID", nargs="+", type=job_id, help="a job")
    parser.add_argument(
        "--timeout",
        metavar="S",
        type=seconds_of,
        default=math.inf,
        help="how long to wait for all of them together (default: without end)",
    )
    add_server_options(parser)


def run(options: Namespace) -> int:
    """Print the JSON of each job once it has ended, in the order of the arguments."""
    with open_calls(options) as calls:
        end = time.monotonic() + options.timeout

        def wait(each: str) -> None:
            job, body = wait_for(calls, each, seconds=max(end - time.monotonic(), 0))
            write_line(json_line(body))
            check_success(job)

        return run_for_each(options.ids, wait)
