"""The filters in the body of a request that is about many jobs."""

import json
from collections.abc import Callable

import msgspec

from trio_jobs.api.submission_json import json_problem
from trio_jobs.handlers.payload_faults import JSON_ERRORS
from trio_jobs.problem_details import Problem


def decode_filters(body: bytes, decode: Callable[[bytes], msgspec.Struct]) -> list[object]:
    """The values of the struct that a body is, in the order of its fields; None for those left out.

    Raises:
        Problem: 400, with the fault and its path.
    """
    try:
        filters = decode(body)
    except JSON_ERRORS as error:
        raise json_problem(error, body) from None
    # msgspec silently takes the last value of a repeated key.
    names = [name for name, _ in json.loads(body, object_pairs_hook=list)]
    if len(names) > len(set(names)):
        raise Problem(400, "$: object contains a field more than once")
    return [None if each is msgspec.UNSET else each for each in msgspec.structs.astuple(filters)]
