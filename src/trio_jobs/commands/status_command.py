"""`trio-jobs status`: shows one job, or what the pool does."""

from argparse import ArgumentParser, Namespace

from trio_jobs.commands.durations import job_id
from trio_jobs.commands.exit_statuses import OK
from trio_jobs.commands.output import is_terminal, json_line, write_line
from trio_jobs.commands.server_calls import open_calls, read_object
from trio_jobs.commands.server_option import add_server_options
from trio_jobs.commands.text_cells import plain


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "id", metavar="ID", nargs="?", type=job_id, help="the job (default: the pool)"
    )
    parser.add_argument(
        "--json", action="store_true", help="show the pool as JSON on a terminal, too"
    )
    add_server_options(parser)


def run(options: Namespace) -> int:
    """Show it: as the server's JSON, or the pool on a terminal as one line for each number."""
    path = "/pool" if options.id is None else f"/jobs/{options.id}"
    with open_calls(options) as calls:
        body = calls.ask("GET", path).content
    if options.id is not None or options.json or not is_terminal():
        write_line(json_line(body))
        return OK
    shown = {name: text for name, value in read_object(body).items() if (text := _text(value))}
    width = max(map(len, shown), default=0)
    for name, text in shown.items():
        write_line(f"{plain(name):{width}}  {plain(text)}")
    return OK


def _text(value: object) -> str | None:
    """A number or a word for people; None for what does not fit into a line."""
    match value:
        case None:
            return "-"
        case str() | int() | float():
            return str(value)
        case list() if all(isinstance(each, str) for each in value):
            return ", ".join(value) or "-"
    return None
