"""`POST /jobs/pipe`: jobs in, one a line; their results out, one a line, as they end."""

from quart import Quart, Response, request

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.pipe import OpenPipes, Pipe
from trio_jobs.api.pipe_jobs import PipeOptions
from trio_jobs.api.query_params import read_parameters, unknown_parameter
from trio_jobs.api.request_body import refuse_encoded_body
from trio_jobs.api.submission_json import refuse_key
from trio_jobs.handlers.registry import HandlerRegistry, UnknownTypeError
from trio_jobs.pool.refusals import IntakePausedError, ShuttingDownError
from trio_jobs.problem_details import Problem

MAX_WINDOW = 1_000
# A pipe needs two lines for each worker: one that runs, and one that is next. More lines make other
# clients' jobs wait behind them, and the pipe no faster.
_PER_WORKER = 2
_LEAST_WINDOW = 16
# Seconds after which a client that was refused a pipe may try again.
_RETRY_AFTER = 10


def add_pipe_route(app: Quart, context: ApiContext) -> None:
    """Add ``POST /jobs/pipe``."""
    pool, limit, pipes = context.pool, context.http.max_pipes, OpenPipes()

    @app.post("/jobs/pipe")
    async def pipe() -> Response:
        refuse_key()
        refuse_encoded_body()
        usual = max(_PER_WORKER * pool.worker_tasks.number, _LEAST_WINDOW)
        options = parse_options(request.query_string, pool.handlers, usual=min(usual, MAX_WINDOW))
        if pool.admission.closed:
            raise ShuttingDownError
        if not pool.admission.intake.is_open:
            raise IntakePausedError
        # No checkpoint from here until the pipe counts itself.
        if pipes.count >= limit:
            seconds = _RETRY_AFTER
            raise Problem(
                503,
                f"{limit} pipes are open already; try again in {seconds} s",
                headers={"Retry-After": str(seconds)},
                retry_after=seconds,
            )
        return Pipe(context, options, pipes)


def parse_options(text: bytes, handlers: HandlerRegistry, *, usual: int) -> PipeOptions:
    """What a query string asks for.

    Args:
        text: The query string.
        handlers: Those that there are.
        usual: The window without a parameter.

    Raises:
        Problem: 400, an unknown or repeated parameter, or a bad value.
    """
    given: dict[str, str] = {}
    for name, value in read_parameters(text):
        if name not in ("type", "window"):
            raise unknown_parameter(name, "type", "window")
        if name in given:
            raise Problem(400, f"query parameter {name!r} is repeated")
        given[name] = value
    if (type_ := given.get("type")) is not None:
        if not type_:
            raise Problem(400, "type must be a non-empty text")
        try:
            handlers.find(type_)
        except UnknownTypeError as error:
            raise Problem(400, str(error), types=error.types) from None
    window = usual
    if (number := given.get("window")) is not None:
        if not (
            number.isascii()
            and number.isdigit()
            and len(number) <= 4
            and 1 <= int(number) <= MAX_WINDOW
        ):
            found = number[:100]
            raise Problem(400, f"window must be an integer from 1 to {MAX_WINDOW}, got {found!r}")
        window = int(number)
    return PipeOptions(type_, window, min(usual, window))
