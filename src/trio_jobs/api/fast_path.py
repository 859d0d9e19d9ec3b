"""`FastPath`: answers a plain submission, and a plain poll of a job, without Quart's objects."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from trio_jobs.access import Access
from trio_jobs.api.answers import REFUSALS, Answer, Asked, accepted, refused, shown
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.app import create_app
from trio_jobs.api.quart_adapter import NO_STORE
from trio_jobs.api.submission_json import parse_submission
from trio_jobs.api.submit import as_first_answered, checked_key
from trio_jobs.job import Job
from trio_jobs.pool import idempotency
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.pool.store import JobNotFoundError

# Status, headers, body.
Encoded = tuple[int, list[tuple[bytes, bytes]], bytes]

_JOB = re.compile(rb"/jobs/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# A request with one of these headers asks for more than the fast path does.
_BEYOND = frozenset({b"prefer", b"content-encoding"})


class FastPath:
    """The application of `create_app`, with a fast path past it for two kinds of requests.

    These are ``POST /jobs``, and ``GET /jobs/{id}`` with a UUID in lower case, if the target is
    exactly this path, the body has arrived, and the request has no ``Prefer`` and no
    ``Content-Encoding``. Every other request goes to Quart, and so does
    every request of a server that does not ask `answer_now`. Both ways parse, check, admit, show
    and refuse by the same functions, and give the same answer.

    Attributes:
        app: The application without the fast path.

    Args:
        context: One pool, and the limits of the API over it. If its jobs are in a file, a poll of a
            job that is not in memory goes to Quart.
        find: The store's look-up, without a checkpoint.
    """

    def __init__(self, context: ApiContext, *, find: Callable[[str], Job]) -> None:
        self._context = context
        self._find = find
        self._waits = context.pool.store.disk is not None
        # With tracing, each submission goes to Quart.
        self._submissions = b"/jobs" if context.tracing is None else None
        self.app = create_app(context)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        """Answer one request by ASGI."""
        await self.app(scope, receive, send)

    def answer_now(
        self,
        method: str,
        target: bytes,
        fields: Mapping[bytes, bytes],
        body: bytes,
        access: Access,
    ) -> Encoded | Awaitable[Encoded] | None:
        """Answer one request, or return None if it has to go to Quart.

        Args:
            method: In capitals.
            target: As the client sent it.
            fields: The headers, by name in lower case; no name has several values. Access control
                has admitted the request.
            body: All of it, within the limit.
            access: Who asks.

        Returns:
            Status, headers and body; or what the caller awaits for them, if the jobs are in a file,
            or the submission has a key.
        """
        if not _BEYOND.isdisjoint(fields):
            return None
        try:
            if method == "POST" and target == self._submissions:
                key = fields.get(b"idempotency-key")
                if self._waits or key is not None:
                    return self._submit_later(body, access, key)
                answer = self._submit(body, access)
            elif method == "GET" and _JOB.fullmatch(target):
                job = self._find(target.removeprefix(b"/jobs/").decode())
                answer = shown(job, self._context, access)
            else:
                return None
        except JobNotFoundError as error:
            if self._waits:
                return None
            answer = refused(error, self._context, Asked.LOOK_UP)
        except REFUSALS as error:
            asked = Asked.JOBS if method == "POST" else Asked.LOOK_UP
            answer = refused(error, self._context, asked)
        return _encode(answer)

    def _submit(self, body: bytes, access: Access) -> Answer:
        admission = self._context.pool.admission
        if admission.closed:
            raise ShuttingDownError
        pool = self._context.pool
        spec = parse_submission(body, pool.handlers, pool.now, submitted_by=access.name)
        if spec.submitted_by is None:
            job = admission.submit(spec.type, spec.payload, spec.due)
        else:
            [job] = admission.submit_all([spec])
        return accepted(job, {"Location": f"/jobs/{job.id}"})

    async def _submit_later(self, body: bytes, access: Access, key: bytes | None) -> Encoded:
        pool = self._context.pool
        headers: dict[str, str] = {}
        try:
            if pool.admission.closed and key is None:
                raise ShuttingDownError
            text = None if key is None else checked_key([key.decode("latin-1")])
            name = access.name
            spec = parse_submission(body, pool.handlers, pool.now, key=text, submitted_by=name)
            if spec.key is None:
                job = await pool.admission.admit(spec)
            else:
                submitted = await idempotency.admit(spec, pool.admission, pool.store)
                job, headers = as_first_answered(submitted, body, pool.handlers)
            answer = accepted(job, {**headers, "Location": f"/jobs/{job.id}"})
        except REFUSALS as error:
            answer = refused(error, self._context, Asked.JOBS)
        return _encode(answer)


def _encode(answer: Answer) -> Encoded:
    """The answer with its headers in the order that Quart gives them."""
    body = answer.body
    return (
        answer.status,
        [
            *[(name.lower().encode(), value.encode()) for name, value in answer.headers.items()],
            (b"content-type", answer.media_type.encode()),
            (b"content-length", b"%d" % len(body)),
            NO_STORE,
        ],
        body,
    )
