"""`trio-jobs submit`: submits one job, and perhaps waits for its end."""

import math
import os
import re
import sys
import uuid
from argparse import ArgumentParser, ArgumentTypeError, Namespace

import msgspec

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.durations import seconds_of
from trio_jobs.commands.exit_statuses import MISTAKEN, OK
from trio_jobs.commands.output import json_line, write_line
from trio_jobs.commands.second_tries import Patience, wait_as_asked
from trio_jobs.commands.seen_job import SeenJob, read_job
from trio_jobs.commands.server_calls import Calls, GoneError, RefusedError, open_calls
from trio_jobs.commands.server_option import add_server_options
from trio_jobs.commands.type_option import job_type
from trio_jobs.commands.waiting import check_success, wait_for

# Statuses of refusals that another try may not get.
_NO_ROOM = (429, 503, 507)
_UNCERTAIN = 504

# What a header can carry, and the server takes.
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("type", metavar="TYPE", type=job_type, help="the job's type")
    parser.add_argument(
        "payload",
        metavar="PAYLOAD",
        nargs="?",
        help="its payload, as JSON; - reads it from standard input (default: null)",
    )
    parser.add_argument(
        "--wait",
        metavar="S",
        nargs="?",
        type=_wait,
        const=math.inf,
        help="wait for its end, at most so long, and print its result instead of its id",
    )
    parser.add_argument(
        "--key",
        metavar="K",
        type=_key,
        help="its idempotency key: the same submission with the same key makes no second job"
        " (default: a new one)",
    )
    parser.add_argument("--delay", metavar="S", type=seconds_of, help="when it may begin, from now")
    parser.add_argument(
        "--wait-for-room",
        action="store_true",
        help="if the server takes no jobs now, try again until it does",
    )
    add_server_options(parser)


def run(options: Namespace) -> int:
    """Submit; print the id, or with ``--wait`` the result."""
    body = _body(options)
    with open_calls(options) as calls:
        job = _submit(calls, body, options)
        if options.wait is None:
            write_line(job.id)
            return OK
        job, _ = wait_for(calls, job.id, seconds=options.wait)
    check_success(job)
    write_line(json_line(bytes(job.result)))
    return OK


def _wait(text: str) -> float:
    try:
        return seconds_of(text)
    except ArgumentTypeError as error:
        raise ArgumentTypeError(f"{error}; TYPE and PAYLOAD stand before --wait") from None


def _key(text: str) -> str:
    if _KEY.fullmatch(text):
        return text
    raise ArgumentTypeError(f"expected 1 to 255 visible ASCII characters, got {text!r}")


def _submit(calls: Calls, body: bytes, options: Namespace) -> SeenJob:
    # The key stays the same: a request whose answer was lost makes no second job.
    headers = {"Idempotency-Key": options.key or uuid.uuid4().hex}
    patience = Patience()
    while True:
        try:
            answer = calls.ask("POST", "/jobs", content=body, headers=headers)
        except GoneError as error:
            if not error.was_asked and not error.passes:
                raise
            patience.pause(error)
        except RefusedError as error:
            if options.wait_for_room and error.http_status in _NO_ROOM:
                patience.note_progress()
                wait_as_asked(error.retry_after)
            elif error.http_status == _UNCERTAIN:
                patience.pause(error)
            else:
                raise
        else:
            return read_job(answer.content)


def _body(options: Namespace) -> bytes:
    """The request's body, around the payload as it came."""
    if options.payload == "-":
        # `sys.stdin` is None if it is closed.
        source, raw = "standard input", b"" if sys.stdin is None else sys.stdin.buffer.read()
    else:
        source, raw = "PAYLOAD", os.fsencode(options.payload or "null")
    try:
        payload = msgspec.json.decode(raw, type=msgspec.Raw)
    except ValueError as error:
        found = f", got {options.payload!r}" if source == "PAYLOAD" else ""
        raise CommandError(f"{source} must be JSON{found}: {error}", MISTAKEN) from None
    job = {"type": options.type, "payload": payload}
    if options.delay is not None:
        job["delay"] = options.delay
    return msgspec.json.encode(job)
