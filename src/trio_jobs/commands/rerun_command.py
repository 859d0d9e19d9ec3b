"""`trio-jobs rerun`: submits jobs once more that have not succeeded."""

import json
from argparse import ArgumentParser, Namespace

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.durations import job_id
from trio_jobs.commands.each_job import run_for_each
from trio_jobs.commands.exit_statuses import MISTAKEN, OK
from trio_jobs.commands.output import json_line, write_line
from trio_jobs.commands.seen_job import read_job
from trio_jobs.commands.server_calls import open_calls
from trio_jobs.commands.server_option import add_server_options
from trio_jobs.commands.type_option import add_type_option


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("ids", metavar="ID", nargs="*", type=job_id, help="a job")
    parser.add_argument(
        "--failed", action="store_true", help="all jobs that have failed or timed out, each once"
    )
    add_type_option(parser, "with --failed, only jobs of this type")
    add_server_options(parser)


def run(options: Namespace) -> int:
    """Re-run them; print the id of each new job, or how many the server has accepted."""
    if options.failed == bool(options.ids) or (options.type and not options.failed):
        raise CommandError("rerun needs ids, or else --failed, perhaps with --type", MISTAKEN)
    with open_calls(options) as calls:

        def rerun(each: str) -> None:
            write_line(read_job(calls.ask("POST", f"/jobs/{each}/rerun").content).id)

        if options.ids:
            return run_for_each(options.ids, rerun)
        filters = {"type": options.type} if options.type else {}
        answer = calls.ask("POST", "/jobs/rerun", content=json.dumps(filters).encode())
        write_line(json_line(answer.content))
        return OK
