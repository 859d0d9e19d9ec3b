"""`trio-jobs list`: lists jobs, as a table for people and as JSON for programs."""

import math
import re
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from trio_jobs.commands.complaints import complain
from trio_jobs.commands.durations import seconds_of
from trio_jobs.commands.exit_statuses import OK
from trio_jobs.commands.output import is_terminal, json_line, write_line
from trio_jobs.commands.seen_job import SeenJob, read_as, read_job
from trio_jobs.commands.server_calls import Calls, open_calls
from trio_jobs.commands.server_option import add_server_options
from trio_jobs.commands.text_cells import plain, table, terminal_size
from trio_jobs.commands.type_option import add_type_option

_PAGE: Final = 1000  # the most that a server lists at a time
_USUAL_LIMIT: Final = 100
_HEAD: Final = ("ID", "TYPE", "STATE", "AGE", "SECONDS", "ERROR")
_NUMBERS: Final = frozenset({3, 4})

# Those whom `rerun --failed` runs again, the last end first.
_FAILED: Final = (
    ("outcome", "failed"),
    ("outcome", "timed_out"),
    ("order", "ended"),
    ("rerun", "no"),
)


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--failed",
        action="store_true",
        help="only jobs that have failed or timed out and were not re-run, the last end first",
    )
    add_type_option(parser, "of this type")
    parser.add_argument(
        "--status",
        metavar="STATUS",
        action="append",
        default=[],
        choices=("pending", "processing", "completed"),
        help="with this status (pending, processing, completed); may be repeated",
    )
    parser.add_argument(
        "--since",
        metavar="S",
        type=seconds_of,
        help="submitted in this time, such as 1h; with --failed, ended in it",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_limit,
        help=f"at most so many, or all (default: {_USUAL_LIMIT})",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line on a terminal, too"
    )
    add_server_options(parser)


def run(options: Namespace) -> int:
    """List them: a table on a terminal, else the JSON of each job in a line of its own."""
    as_table = is_terminal() and not options.json
    head = [_HEAD]
    with open_calls(options) as calls:
        for page in _pages(calls, options):
            if not as_table:
                for each in page:
                    write_line(json_line(bytes(each)))
                continue
            rows = [*head, *(_row(read_job(bytes(each))) for each in page)]
            for line in table(rows, width=terminal_size().columns, right=_NUMBERS):
                write_line(line)
            head = []
    return OK


def _pages(calls: Calls, options: Namespace) -> Iterator[list[msgspec.Raw]]:
    parameters = [*_filters(options)]
    left = options.limit or _USUAL_LIMIT
    after: list[tuple[str, str]] = []
    while left > 0:
        limit = ("limit", min(left, _PAGE))
        answer = calls.ask("GET", "/jobs", parameters=[*parameters, limit, *after])
        page = read_as(list[msgspec.Raw], answer.content, "the answer is no list of jobs")
        if page:
            yield page
        left -= len(page)
        # Only the position: behind a proxy or below a mount, the path may be another one.
        following = urlsplit(str(answer.links.get("next", {}).get("url", "")))
        positions = parse_qs(following.query).get("after", [])
        if not positions or not page:
            return
        after = [("after", positions[0])]
    if options.limit is None:
        complain(f"these are {_USUAL_LIMIT} jobs, and there are more: --limit shows them")


def _filters(options: Namespace) -> Iterator[tuple[str, str]]:
    yield from _FAILED if options.failed else [("order", "newest")]
    yield from (("type", each) for each in options.type)
    yield from (("status", each) for each in options.status)
    if options.since is not None:
        began = time.gmtime(max(time.time() - options.since, 0))
        yield "since", time.strftime("%Y-%m-%dT%H:%M:%SZ", began)


def _row(job: SeenJob) -> tuple[str, ...]:
    error = job.error or job.last_error
    age = time.time() - (job.completed_at or job.created_at).timestamp()
    return (
        plain(job.id),
        plain(job.type),
        plain(job.outcome or job.status),
        _age(age),
        "" if job.duration is None else f"{job.duration:.3f}",
        "" if error is None else plain(error),
    )


def _age(seconds: float) -> str:
    """In one unit, so that it leaves room for the error."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _limit(text: str) -> float:
    if text == "all":
        return math.inf
    if re.fullmatch("[0-9]{1,9}", text) and int(text) > 0:
        return int(text)
    raise ArgumentTypeError(f"expected a positive number, or all, got {text!r}")
