"""`run_file`: makes the parts of a run, and says how the run has ended."""

import os
import shlex
import sys
import time
from argparse import Namespace
from pathlib import Path

import trio

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.exit_statuses import BROKEN, MISTAKEN, OK, UNSUCCESSFUL
from trio_jobs.commands.run.input_file import InputError, InputFile
from trio_jobs.commands.run.line_files import LineFileError
from trio_jobs.commands.run.reader import Reader
from trio_jobs.commands.run.run import Run
from trio_jobs.commands.run.run_files import RunFiles, create_files, open_stream, resume_files
from trio_jobs.commands.run.run_progress import RunProgress
from trio_jobs.commands.run.runner import Runner, RunnerError
from trio_jobs.commands.run.screen import Screen
from trio_jobs.commands.run.side_file import RunOptions
from trio_jobs.commands.run.stop_signals import StopSignals
from trio_jobs.commands.server_calls import no_http_client

# The options that a run goes on with, in the order in which they are shown.
_SHOWN = ("type", "out", "failed", "chunk", "in_flight", "retry_for", "config", "url", "token_file")


def run_file(options: Namespace, signals: StopSignals) -> int:
    """Run the records of a file as jobs.

    Args:
        options: Those of the command.
        signals: Taken already.

    Returns:
        The exit status: 0, all records have succeeded; 3, all are done, and some have another
        outcome; 1, the server or a file has failed; 2, the input cannot be read any more, or the
        server refuses the run; 130 and the like, a signal has ended the run.

    Raises:
        CommandError: An option, the input or a file is wrong; nothing was run.
    """
    _check(options)
    # Results on a terminal are progress enough.
    screen = Screen(quiet=options.quiet or (options.out is None and os.isatty(1)))
    try:
        input_ = InputFile(options.file)
        _check_input(options, input_)
        runner = _make_runner(options, signals, screen)
        total = input_.count_records() if input_.is_regular else None
        files = _open_files(options, input_)
    except (InputError, LineFileError) as error:
        raise CommandError(str(error), MISTAKEN) from None
    if files.lost_failures:
        screen.say(f"{files.lost_failures:,} failures in {options.out} are not in {options.failed}")
    before = files.done.number
    progress = RunProgress(files.done, time.monotonic, total=total)
    run = Run(
        runner,
        files.done,
        files.results,
        files.failures,
        files.side,
        signals=signals,
        screen=screen,
        progress=progress,
    )
    reader = Reader(
        input_,
        files.run_id,
        files.done,
        job_type=options.type,
        chunk=options.chunk,
        refuse=run.refuse,
    )
    trio.run(run.run, reader)
    try:
        files.close()
    except OSError as error:
        run.error = run.error or error
    if run.error is None and (run.is_whole or files.done.number == total):
        files.end()
        if screen.shows_progress:
            screen.say(progress.last_line())
        return UNSUCCESSFUL if files.done.failed else OK
    screen.clear()
    if run.error is not None:
        screen.say(f"trio-jobs: {_text_of(run.error, options)}")
    if options.out is not None:
        counts = progress.counts(before + files.results.written)
        go_on = "" if files.side is None else f"; go on with: {_go_on(options)}"
        screen.say(f" {counts} in {options.out}{go_on}")
    return _status_of(run.error) or signals.status


def _check(options: Namespace) -> None:
    if options.resume and options.out is None:
        raise CommandError("--resume needs --out", MISTAKEN)
    if options.retry_failed and not options.resume:
        raise CommandError("--retry-failed needs --resume", MISTAKEN)
    if options.config is not None:
        for name in ("url", "token_file", "retry_for"):
            if getattr(options, name) is not None:
                text = f"--{name.replace('_', '-')} is for a server, and --config runs without one"
                raise CommandError(text, MISTAKEN)
    paths = {"--out": options.out, "--failed": options.failed, "FILE": Path(options.file)}
    try:
        given = [(name, path.resolve()) for name, path in paths.items() if path is not None]
    except FileNotFoundError as error:
        raise CommandError("the current folder was removed", MISTAKEN) from error
    for at, (name, path) in enumerate(given):
        for other, another in given[at + 1 :]:
            if path == another and str(path) != "-":
                raise CommandError(f"{name} and {other} are the same file: {path}", MISTAKEN)


def _check_input(options: Namespace, input_: InputFile) -> None:
    if options.resume and not input_.is_regular:
        name = "standard input" if options.file == "-" else options.file
        raise CommandError(
            f"--resume reads the input once more from its beginning, and {name} may not be the"
            " same again: write it to a file, and run that",
            MISTAKEN,
        )


def _make_runner(options: Namespace, signals: StopSignals, screen: Screen) -> Runner:
    if options.config is None:
        try:
            from trio_jobs.commands.run.served import ServedRunner
        except ImportError as error:
            if error.name not in ("anyio", "httpx"):
                raise
            raise no_http_client() from None

        return ServedRunner(options)
    from trio_jobs.commands.run.configured import make_embedded_runner

    return make_embedded_runner(options, signals, screen)


def _open_files(options: Namespace, input_: InputFile) -> RunFiles:
    out, failed = options.out, options.failed
    if out is None:
        if sys.stdout is None:  # the null device took its place
            raise CommandError("standard output is closed", BROKEN)
        results = 1
        if options.config is not None:
            # What handlers print goes to standard error, not between the results.
            results = os.dup(1)
            os.dup2(2, 1)
        return open_stream(results, failed)
    mark = input_.mark() if input_.is_regular else None
    same = RunOptions(
        type=options.type,
        chunk=options.chunk,
        # The side file is JSON; the path may be no valid Unicode.
        failed=None
        if failed is None
        else str(failed.absolute()).encode(errors="backslashreplace").decode(),
    )
    if options.resume and mark is not None:
        return resume_files(out, failed, mark, same, retry_failed=options.retry_failed)
    return create_files(out, failed, mark, same)


def _go_on(options: Namespace) -> str:
    """The command that goes on with the run."""
    words = ["trio-jobs", "run", options.file]
    for name in _SHOWN:
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, *(["--quiet"] if options.quiet else []), "--resume"])


def _text_of(error: Exception, options: Namespace) -> str:
    if isinstance(error, BrokenPipeError) and options.out is None:
        return "standard output was closed"
    if isinstance(error, OSError):
        what = options.out or "standard output"
        return f"{what} cannot be written: {error.strerror}"
    return str(error)


def _status_of(error: Exception | None) -> int:
    if isinstance(error, RunnerError):
        return error.status
    if isinstance(error, InputError):
        return MISTAKEN
    return OK if error is None else BROKEN
