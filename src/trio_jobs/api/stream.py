"""`POST /jobs/stream`: takes any number of jobs, one a line, and admits them as room appears."""

from collections.abc import Sequence

import msgspec
import trio
from quart import Quart, Response

from trio_jobs.api.answers import problem_of
from trio_jobs.api.api_context import ApiContext, SubmissionSpan
from trio_jobs.api.body_stream import BodyStream
from trio_jobs.api.current_access import current_access
from trio_jobs.api.line_admission import LineAdmission
from trio_jobs.api.ndjson import WHITE_SPACE, Lines
from trio_jobs.api.request_body import refuse_encoded_body
from trio_jobs.api.serialization import MEDIA_TYPE
from trio_jobs.api.submission_json import (
    ITEM_COST,
    TURN_COST,
    parse_item,
    refuse_key,
)
from trio_jobs.api.submission_span import submission_span, with_span
from trio_jobs.job import Job
from trio_jobs.pool.idempotency import KeyReusedError
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import AdmissionError, StoreTimeoutError
from trio_jobs.problem_details import Problem


def add_stream_route(app: Quart, context: ApiContext) -> None:
    """Add ``POST /jobs/stream``."""
    intake = context.pool.admission.intake

    @app.post("/jobs/stream")
    async def submit_stream() -> Response:
        upload = Upload(context)
        try:
            with (
                submission_span(context) as upload.span,
                context.pool.capacity.cancel_on_close(),
                intake.cancel_on_pause(),
            ):
                await upload.run()
        except (AdmissionError, StoreTimeoutError) as error:
            raise problem_of(error, context, accepted=upload.accepted) from None
        except Problem as problem:
            problem.members["accepted"] = upload.accepted
            raise
        answer = msgspec.json.encode({"accepted": upload.accepted})
        return Response(answer, 201, content_type=MEDIA_TYPE)


class Upload:
    """One stream of jobs.

    It reads the next piece of the body when the pool has admitted all jobs of
    the last piece, and reads little ahead while jobs wait for room. So TCP
    makes the client wait, and memory stays flat.

    Attributes:
        accepted: The number of admitted jobs; right at each checkpoint.
        span: The span of the request; None without tracing.
    """

    def __init__(self, context: ApiContext) -> None:
        self.span: SubmissionSpan | None = None
        self.accepted = 0
        self._handlers = context.pool.handlers
        self._now = context.pool.now
        self._access = current_access()
        self._access_changes = context.access_changes
        self._max_line_bytes = context.http.max_body_bytes
        self._body = BodyStream(idle_timeout=context.http.stream_idle_timeout)
        self._admission = LineAdmission(context.pool, self._body.watched, self._count)
        self._line = 0
        self._lines: list[int] = []  # of the parsed jobs that are not admitted yet

    async def run(self) -> None:
        """Admit the jobs in the current request's body.

        Raises:
            Problem: 400, an idempotency key, a bad line or an incomplete body,
                or the client disconnected while lines waited for room; 401, the
                client has lost its access; 408, the client sent nothing; 413, a
                line is too long; 415, the body is encoded; 422, the key of a line
                was used with another submission.
            QueueFullError: A line has a later time, and too many jobs wait for one.
            ShuttingDownError: The pool has closed.
            IntakePausedError: The intake is paused.

        Cancellation:
            The jobs admitted so far stay admitted.
        """
        try:
            await self._run()
        finally:
            if self.span is not None:
                self.span.note_count(self.accepted)

    async def _run(self) -> None:
        refuse_key()
        refuse_encoded_body()
        lines = Lines()
        while piece := await self._body.read():
            if self._access_changes is not None and self._access_changes.is_lost(self._access):
                raise _access_lost()
            await self._take(lines.feed(piece))
            if lines.pending_bytes > self._max_line_bytes + len(b"\r"):
                self._line += 1
                raise self._too_long()
        await self._take([lines.last()])

    async def _take(self, lines: list[bytes]) -> None:
        ready: list[JobSpec] = []
        bad: Problem | None = None
        cost = 0
        for line in lines:
            self._line += 1
            if text := line.strip(WHITE_SPACE):
                try:
                    ready.append(self._parse(text))
                    self._lines.append(self._line)
                except Problem as problem:
                    bad = problem
                    break
            cost += len(line) + ITEM_COST
            if cost > TURN_COST:
                cost = 0
                await self._admit(ready)
                ready = []
                await trio.lowlevel.checkpoint()
        await self._admit(ready)
        if bad is not None:
            raise bad  # after the admission of the lines before it

    def _parse(self, text: bytes) -> JobSpec:
        if len(text) > self._max_line_bytes:
            raise self._too_long()
        try:
            spec = parse_item(text, self._handlers, self._now, submitted_by=self._access.name)
        except Problem as problem:
            problem.members["line"] = self._line
            raise
        return spec if self.span is None else with_span(spec, self.span)

    async def _admit(self, ready: list[JobSpec]) -> None:
        try:
            await self._admission.admit(ready)
        except KeyReusedError as error:
            line = self._lines[-len(self._admission.left)]
            raise Problem(422, str(error), line=line) from None
        self._lines.clear()

    def _count(self, _: Sequence[JobSpec], jobs: Sequence[Job], __: bool) -> None:
        # At once: a shutdown may cancel at the next checkpoint, and the 503 has the count.
        self.accepted += len(jobs)

    def _too_long(self) -> Problem:
        return Problem(
            413,
            f"line {self._line} must be at most {self._max_line_bytes} bytes",
            headers={"Connection": "close"},
            limit=self._max_line_bytes,
            line=self._line,
        )


def _access_lost() -> Problem:
    return Problem(
        401,
        "the token or the session is no longer valid",
        headers={
            "Connection": "close",
            "WWW-Authenticate": 'Bearer realm="trio-jobs", error="invalid_token"',
        },
    )
