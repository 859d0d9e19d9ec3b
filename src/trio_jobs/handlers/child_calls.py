"""`run_calls`: runs the jobs that the server sends, one after the other; in the child process."""

import time
from functools import partial
from itertools import count

import msgspec

from trio_jobs.current_job import current_job_id
from trio_jobs.error_text import Failure
from trio_jobs.handlers.call_marks import CallMarks
from trio_jobs.handlers.child_functions import ChildFunctions
from trio_jobs.handlers.child_log import ChildLog
from trio_jobs.handlers.child_progress import ChildProgress
from trio_jobs.handlers.child_trace import span_around
from trio_jobs.handlers.frames import TIMES, Call, Kind, frame
from trio_jobs.handlers.handler import run_plain
from trio_jobs.handlers.progress_report import ProgressReport
from trio_jobs.handlers.server_pipes import ServerPipes


def run_calls(
    server: ServerPipes, marks: CallMarks, functions: ChildFunctions, log: ChildLog
) -> None:
    """Run the jobs in their order until the server closes the pipe; answer each before the next.

    Args:
        server: Where they come from, and where the answers go.
        marks: Which of them may begin.
        functions: The handlers.
        log: Gets each job's id.
    """
    for number in count(1):
        body = server.read()
        if body is None:
            return
        call = msgspec.json.decode(body, type=Call)
        if marks.begin(number):
            log.job_id = call.job_id
            _run(call, functions, server)
            log.job_id = None
        else:
            server.write(Kind.SKIPPED, b"")


def _run(call: Call, functions: ChildFunctions, server: ServerPipes) -> None:
    token = current_job_id.set(call.job_id)
    found = functions.find(call.function)
    server.end_copy()
    progress = context = None
    began = time.perf_counter()
    if isinstance(found, Failure):
        answer: bytes | Failure = found
    else:
        if found.takes_context:
            progress = ChildProgress(server.send_report)
            context = functions.context_of(call, partial(_report, server, progress))
        payload = bytes(call.payload)
        with span_around(call.trace):
            answer = run_plain(found, payload, context, max_result_bytes=call.max_result_bytes)
        server.end_copy()  # it would run the jobs behind this one, too
    if progress is not None:
        progress.end(send=isinstance(answer, Failure))  # behind a success nobody looks at it
    now = time.perf_counter()
    ended = frame(Kind.ENDED, TIMES.pack(now, now - began))
    if isinstance(answer, Failure):
        server.write(Kind.FAILURE, msgspec.json.encode(answer), before=ended)
    else:
        server.write(Kind.RESULT, answer, before=ended)
    current_job_id.reset(token)


def _report(server: ServerPipes, progress: ChildProgress, report: ProgressReport) -> None:
    if not server.is_copy:  # a copy's threads are gone, and may have held a lock
        progress.report(report)
