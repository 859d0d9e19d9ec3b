"""What operators change while the pool runs: its workers, its intake, and the types it begins."""

import msgspec
from quart import Quart, Response

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.current_access import logged_action
from trio_jobs.api.filters_json import decode_filters
from trio_jobs.api.request_body import read_body
from trio_jobs.api.serialization import MEDIA_TYPE
from trio_jobs.pool.pool import Pool
from trio_jobs.pool.refusals import ShuttingDownError, StoreWriteError
from trio_jobs.pool.store import DurableStorePort
from trio_jobs.problem_details import Problem
from trio_jobs.setting_type import ConfigError
from trio_jobs.settings import SETTINGS

_WORKERS = SETTINGS["pool.workers"]

# The name in a store's file of the list of paused types.
PAUSED = "paused"


class _Workers(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    workers: object


class _Intake(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    open: bool


class _Types(msgspec.Struct, forbid_unknown_fields=True, frozen=True, gc=False):
    type: list[str] | msgspec.UnsetType = msgspec.UNSET
    all: bool | msgspec.UnsetType = msgspec.UNSET


_decode_workers = msgspec.json.Decoder(_Workers).decode
_decode_intake = msgspec.json.Decoder(_Intake).decode
_decode_types = msgspec.json.Decoder(_Types).decode


def add_control_routes(app: Quart, context: ApiContext) -> None:
    """Add ``POST`` of ``/pool/workers``, ``/pool/intake``, ``/pool/pause`` and ``/pool/resume``."""
    pool, max_bytes = context.pool, context.http.max_body_bytes

    @app.post("/pool/workers")
    async def set_workers() -> Response:
        number = parse_workers(await read_body(max_bytes=max_bytes))
        tasks = pool.worker_tasks
        with logged_action("set_workers", workers=number, before=tasks.number):
            try:
                await tasks.set_number(number)
            except ShuttingDownError:
                raise _stopping("the number of workers") from None
        _show_change(pool)
        return _answer({"workers": number, "leaving": tasks.leaving, "until": "restart"})

    @app.post("/pool/intake")
    async def set_intake() -> Response:
        [is_open] = decode_filters(await read_body(max_bytes=max_bytes), _decode_intake)
        if pool.admission.closed:
            raise _stopping("the intake")
        intake = pool.admission.intake
        with logged_action("resume_intake" if is_open else "pause_intake"):
            (intake.resume if is_open else intake.pause)()
        _show_change(pool)
        return _answer({"intake": pool.statistics().intake, "until": "restart"})

    @app.post("/pool/pause")
    async def pause_types() -> Response:
        types = parse_types(await read_body(max_bytes=max_bytes), pool)
        _check_open(pool)
        with logged_action("pause_types", type=sorted(types)):
            pool.paused.pause(types)
            _show_change(pool)
            await _keep(pool)
        return _answer(_paused(pool))

    @app.post("/pool/resume")
    async def resume_types() -> Response:
        types = parse_types(await read_body(max_bytes=max_bytes), pool)
        _check_open(pool)
        with logged_action("resume_types", type=sorted(types)):
            await pool.paused.resume(types)
            _show_change(pool)
            await _keep(pool)
        return _answer(_paused(pool))


def parse_workers(body: bytes) -> int:
    """The number in ``{"workers": 12}``.

    Raises:
        Problem: 400, with the fault and its path.
    """
    [value] = decode_filters(body, _decode_workers)
    if isinstance(value, float) and value.is_integer():  # to JSON Schema, 2.0 is an integer
        value = int(value)
    try:
        number: int = _WORKERS.convert(value, where="$.workers")
    except ConfigError as error:
        raise Problem(400, str(error)) from None
    return number


def parse_types(body: bytes, pool: Pool) -> set[str]:
    """The types in ``{"type": ["email"]}``, or all of them in ``{"all": true}``.

    Raises:
        Problem: 400, with the fault and its path.
    """
    types, everything = decode_filters(body, _decode_types)
    if everything is True and types is None:
        return pool.paused.select(None)
    if everything is not None or not isinstance(types, list) or not types:
        raise Problem(400, '$: must be {"type": ["...", ...]} or {"all": true}')
    try:
        return pool.paused.select(types)
    except ValueError as error:
        raise Problem(400, f"$.type: {error}") from None


async def _keep(pool: Pool) -> None:
    """Keep the paused types in the file, if there is one, for the next process."""
    if not isinstance(pool.store, DurableStorePort):
        return
    try:
        await pool.store.note(PAUSED, msgspec.json.encode(pool.paused.types).decode())
    except StoreWriteError as error:
        kept = "the change holds, but a restart can take it back"
        raise StoreWriteError(str(error), kept=kept) from error


def _paused(pool: Pool) -> dict[str, object]:
    """The paused types, and for how long they stay so."""
    until = "resume" if isinstance(pool.store, DurableStorePort) else "restart"
    return {"paused": pool.paused.types, "until": until}


def _show_change(pool: Pool) -> None:
    """Have the streams of events show it, if there can be any."""
    if pool.observation is not None:
        pool.observation.ended.touch()


def _check_open(pool: Pool) -> None:
    if pool.admission.closed:
        raise _stopping("a type")


def _stopping(what: str) -> Problem:
    return Problem(409, f"shutting down: {what} stays as it is")


def _answer(members: dict[str, object]) -> Response:
    return Response(msgspec.json.encode(members), content_type=MEDIA_TYPE)
