"""`trio-jobs tail`: shows the jobs as they end, over restarts of the server."""

from argparse import ArgumentParser, Namespace

from trio_jobs.commands.complaints import complain
from trio_jobs.commands.event_feed import Event, follow
from trio_jobs.commands.exit_statuses import OK
from trio_jobs.commands.output import is_terminal, json_line, write_line
from trio_jobs.commands.seen_job import EndedEvent, SeenJob, read_as, read_job
from trio_jobs.commands.server_calls import open_calls
from trio_jobs.commands.server_option import add_server_options
from trio_jobs.commands.text_cells import plain
from trio_jobs.commands.type_option import add_type_option


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--failed", action="store_true", help="only jobs that have failed or timed out"
    )
    add_type_option(parser, "of this type")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line on a terminal, too"
    )
    add_server_options(parser)


def run(options: Namespace) -> int:
    """Show each job once it has ended: JSON in a line, or a line for people on a terminal."""
    parameters = [("state", "0"), *(("type", each) for each in options.type)]
    if options.failed:
        parameters += ("outcome", "failed"), ("outcome", "timed_out")
    as_text = is_terminal() and not options.json
    with open_calls(options) as calls:
        for event in follow(calls, parameters):
            _show(event, as_text=as_text)
    return OK


def _show(event: Event, *, as_text: bool) -> None:
    if event.name == "reset":
        complain("the server was started anew: jobs that ended meanwhile are not shown")
    if event.name != "ended":
        return
    ended = read_as(EndedEvent, event.data, "the event has no ended jobs")
    if ended.missed:
        complain(f"{ended.missed} more jobs have ended, and are not shown")
    for each in ended.jobs:
        write_line(_text(read_job(bytes(each))) if as_text else json_line(bytes(each)))


def _text(job: SeenJob) -> str:
    ended = job.completed_at or job.created_at
    took = "" if job.duration is None else f" {job.duration:.3f} s"
    why = "" if job.error is None else f" {job.error}"
    return plain(f"{ended:%Y-%m-%dT%H:%M:%SZ} {job.id} {job.type} {job.outcome}{took}{why}")
