"""`POST /pool/workers`: changes what the pool does while it runs."""

import msgspec
from quart import Blueprint, Response

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.filters_json import decode_filters
from trio_jobs.api.request_body import read_body
from trio_jobs.api.serialization import MEDIA_TYPE
from trio_jobs.pool.refusals import ShuttingDownError
from trio_jobs.problem_details import Problem
from trio_jobs.settings import SETTINGS, ConfigError

_WORKERS = SETTINGS["pool.workers"]


class _Workers(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    workers: object


_decode_workers = msgspec.json.Decoder(_Workers).decode


def add_control_routes(routes: Blueprint, context: ApiContext) -> None:
    """Add ``POST /pool/workers``."""
    tasks = context.pool.worker_tasks

    @routes.post("/pool/workers")
    async def set_workers() -> Response:
        body = await read_body(max_bytes=context.http.max_body_bytes)
        number = parse_workers(body)
        try:
            await tasks.set_number(number)
        except ShuttingDownError:
            raise Problem(409, "shutting down: the number of workers stays as it is") from None
        return _answer({"workers": number, "leaving": tasks.leaving, "until": "restart"})


def parse_workers(body: bytes) -> int:
    """The number in ``{"workers": 12}``.

    Raises:
        Problem: 400, with the fault and its place.
    """
    [value] = decode_filters(body, _decode_workers)
    if isinstance(value, float) and value.is_integer():  # to JSON Schema, 2.0 is an integer
        value = int(value)
    try:
        number: int = _WORKERS.convert(value, where="$.workers")
    except ConfigError as error:
        raise Problem(400, str(error)) from None
    return number


def _answer(members: dict[str, object]) -> Response:
    return Response(msgspec.json.encode(members), content_type=MEDIA_TYPE)
