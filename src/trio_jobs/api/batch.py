"""`POST /jobs/batch`: many jobs at once, all or none."""

import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import msgspec
import trio
from quart import Quart, Response

from trio_jobs.api import serialization
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.current_access import current_access
from trio_jobs.api.request_body import read_body
from trio_jobs.api.submission_json import (
    ITEM_COST,
    TURN_COST,
    json_problem,
    parse_item,
    refuse_key,
)
from trio_jobs.api.submission_span import submission_span, with_span
from trio_jobs.api.submit import as_submitted
from trio_jobs.handlers.payload_faults import JSON_ERRORS
from trio_jobs.job import Job
from trio_jobs.pool import idempotency
from trio_jobs.pool.idempotency import KeyReusedError, Submitted
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.problem_details import Problem

# The answer describes the faults of this many items, and lists the indexes of all bad items.
_MAX_DETAILS = 20

_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode


def add_batch_route(app: Quart, context: ApiContext) -> None:
    """Add ``POST /jobs/batch``."""
    pool, admission = context.pool, context.pool.admission
    limits = _limits_of(pool)

    @app.post("/jobs/batch")
    async def submit_batch() -> Response:
        refuse_key()
        if admission.closed:
            raise ShuttingDownError
        body = await read_body(max_bytes=context.http.max_body_bytes)
        batch = await parse_batch(
            body,
            partial(
                parse_item,
                handlers=pool.handlers,
                now=pool.now,
                submitted_by=current_access().name,
            ),
            limits=limits,
        )
        try:
            with submission_span(context, batch) as span:
                if span is not None:
                    span.note_count(len(batch))
                    batch = [with_span(spec, span) for spec in batch]
                submitted = await idempotency.admit_all(batch, admission, pool.store)
        except KeyReusedError as error:
            raise Problem(422, f"item {error.indexes[0]}: {error}", index=error.indexes) from None
        jobs = as_submitted_all(submitted, body)
        return Response(await encode_jobs(jobs), 201, content_type=serialization.MEDIA_TYPE)

    def as_submitted_all(submitted: list[Submitted], body: bytes) -> list[Job]:
        if not any(each.replayed for each in submitted):
            return [each.job for each in submitted]
        items = _decode_items(body)

        def at_first(index: int, job: Job) -> JobSpec:
            return parse_item(bytes(items[index]), pool.handlers, lambda: job.created_at)

        return [
            as_submitted(each.job, at_first(index, each.job)) if each.replayed else each.job
            for index, each in enumerate(submitted)
        ]


class Limit(NamedTuple):
    """How many items of a kind a batch may have: with more it would never fit."""

    most: int
    reason: str


class Limits(NamedTuple):
    """Of a batch: for the items that may begin at once, for those with a later time, for all."""

    now: Limit
    later: Limit
    all: Limit


def _limits_of(pool: Pool) -> Limits:
    no_limit = Limit(sys.maxsize, "")
    if pool.sharing is not None:  # a new job takes no slot of this server
        every = Limit(pool.sharing.max_open, "as many as may be open")
        return Limits(no_limit, no_limit, every)
    return Limits(
        Limit(pool.capacity.buffer_size, "as many as the buffer holds"),
        Limit(pool.schedule.max_waiting, "as many as may wait for a later time"),
        no_limit,
    )


async def parse_batch(
    body: bytes, parse: Callable[[bytes], JobSpec], *, limits: Limits
) -> list[JobSpec]:
    """The submissions in a batch.

    Args:
        body: A JSON array.
        parse: Parses one item, or raises a Problem.
        limits: How many items it may have.

    Raises:
        Problem: 400, the body is no array, has too many items of one kind,
            or has bad items, which ``index`` names.

    Checkpoints:
        After each millisecond's work.
    """
    try:
        items = _decode_items(body)
    except JSON_ERRORS as error:
        raise json_problem(error, body) from None
    batch: list[JobSpec] = []
    waiting = 0
    bad: list[tuple[int, str]] = []
    cost = 0
    for index, item in enumerate(items):
        text = bytes(item)
        try:
            batch.append(parse(text))
            waiting += batch[-1].due is not None
        except Problem as problem:
            bad.append((index, problem.detail))
        numbers = (index + 1 - waiting, waiting, index + 1)
        for number, limit in zip(numbers, limits, strict=True):
            if number > limit.most:
                raise _too_many(limit, len(items))
        cost += len(text) + ITEM_COST
        if cost > TURN_COST:
            cost = 0
            await trio.lowlevel.checkpoint()
    if bad:
        details = "; ".join(f"item {index}: {detail}" for index, detail in bad[:_MAX_DETAILS])
        raise Problem(400, details, index=[index for index, _ in bad])
    return batch


def _too_many(limit: Limit, found: int) -> Problem:
    detail = f"a batch must have at most {limit.most} jobs, {limit.reason}, got {found}"
    return Problem(400, detail, limit=limit.most)


async def encode_jobs(jobs: list[Job]) -> bytes:
    """A JSON array of the jobs, each as it was at its submission.

    Checkpoints:
        After each millisecond's work.
    """
    pieces = []
    for start in range(0, len(jobs), serialization.STRIDE):
        piece = serialization.accepted_together_json(jobs[start : start + serialization.STRIDE])
        pieces.append(piece[1:-1])
        await trio.lowlevel.checkpoint()
    return b"[" + b",".join(pieces) + b"]"
