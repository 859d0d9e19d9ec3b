"""`trio-jobs cancel`: cancels jobs by their ids, or all that filters select."""

import json
from argparse import ArgumentParser, Namespace

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.durations import job_id
from trio_jobs.commands.each_job import run_for_each
from trio_jobs.commands.exit_statuses import MISTAKEN, OK
from trio_jobs.commands.output import json_line, write_line
from trio_jobs.commands.server_calls import open_calls
from trio_jobs.commands.server_option import add_server_options
from trio_jobs.commands.type_option import add_type_option


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("ids", metavar="ID", nargs="*", type=job_id, help="a job")
    add_type_option(parser, "all unfinished jobs of this type")
    parser.add_argument(
        "--pending", action="store_true", help="only jobs that no worker has begun; of all types"
    )
    add_server_options(parser)


def run(options: Namespace) -> int:
    """Cancel them; print each job as it is then, or how many the server has accepted."""
    filters = {"type": options.type} if options.type else {}
    if options.pending:
        filters["status"] = ["pending"]
    if bool(filters) == bool(options.ids):
        raise CommandError("cancel needs ids, or else --type or --pending", MISTAKEN)
    with open_calls(options) as calls:

        def cancel(each: str) -> None:
            write_line(json_line(calls.ask("POST", f"/jobs/{each}/cancel").content))

        if options.ids:
            return run_for_each(options.ids, cancel)
        answer = calls.ask("POST", "/jobs/cancel", content=json.dumps(filters).encode())
        write_line(json_line(answer.content))
        return OK
