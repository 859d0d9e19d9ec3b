"""`trio-jobs run`: its arguments."""

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from trio_jobs.commands.durations import seconds_of
from trio_jobs.commands.server_option import add_server_options
from trio_jobs.commands.type_option import job_type

# Seconds for the threads and `atexit` callbacks of handler modules once the run has ended.
_END_SECONDS = 5.0


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "file", metavar="FILE", help="the input, a record in each line; - is standard input"
    )
    parser.add_argument(
        "--type",
        metavar="TYPE",
        type=job_type,
        help='the type of all jobs: each line is a payload (default: each is {"type", "payload"})',
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="the results (default: standard output)"
    )
    parser.add_argument(
        "--failed",
        metavar="FILE",
        type=Path,
        help="the results that are no success, with type and payload: an input for another run",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run whose results are in --out"
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="with --resume: run the records again that have failed",
    )
    parser.add_argument(
        "--chunk",
        metavar="N",
        type=_number,
        help="submit N payloads as one job, whose handler takes a list and returns one as long",
    )
    parser.add_argument(
        "--in-flight",
        metavar="N",
        type=_number,
        help="how many jobs are under way (default: 200; with --config, two for each worker)",
    )
    parser.add_argument(
        "--retry-for",
        metavar="S",
        type=_patience,
        help="how long to try again when the server is gone, or inf (default: 300)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="run the jobs in this process, with the handlers of this configuration",
    )
    add_server_options(parser)


def run(options: Namespace) -> int:
    """Run the records; see `run_file`. With ``--config`` the process ends in here."""
    # Before the imports, which take most of a start: signals that come meanwhile are noted.
    from trio_jobs.commands.run.stop_signals import StopSignals

    signals = StopSignals()
    signals.take()
    from trio_jobs.commands.run.run_file import run_file

    status = run_file(options, signals)
    if options.config is not None:
        from trio_jobs.shutdown.hard_limit import end_interpreter
        from trio_jobs.shutdown.unserved import limit_unserved

        limit_unserved(status, seconds=_END_SECONDS)
        end_interpreter(status)
    return status


def _number(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= 1_000_000:
        return int(text)
    raise ArgumentTypeError(f"expected a number from 1 to 1000000, got {text!r}")


def _patience(text: str) -> float:
    return math.inf if text == "inf" else seconds_of(text)
