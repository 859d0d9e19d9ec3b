"""`GET /openapi.json`: what all the routes take and answer, errors included, as OpenAPI 3.1."""

from importlib import metadata
from typing import Any

import msgspec
from quart import Blueprint, Response

from trio_jobs.api import schemas
from trio_jobs.api.context import ApiContext
from trio_jobs.api.listing import MAX_LIMIT
from trio_jobs.api.quart_adapter import root_path
from trio_jobs.api.serialization import MEDIA_TYPE
from trio_jobs.handlers.registry import HandlerRegistry

Object = dict[str, Any]

_PROBLEMS = {
    "400": "Not JSON, a wrong shape, an unknown type, a bad payload or a bad parameter",
    "401": "A token is set, and missing or wrong",
    "403": "A page of another origin tries to write, or the host is not ours",
    "404": "No such job: it was never there, or has been dropped since",
    "408": "The request did not arrive in time",
    "409": "The job's status does not allow it",
    "413": "The body, or a line of the stream, is too long",
    "415": "The body has a Content-Encoding other than identity",
    "422": "The Idempotency-Key was used with another body",
    "429": "There is no room in the buffer; nothing was kept",
    "500": "A fault of the server's",
    "503": "Shutting down; nothing was kept, of a stream nothing beyond `accepted`",
}


def add_openapi_route(routes: Blueprint, parts: ApiContext) -> None:
    """Add ``GET /openapi.json``."""
    document = msgspec.json.encode(describe(parts.handlers, prefix=parts.prefix))  # once

    @routes.get("/openapi.json")
    async def openapi() -> Response:
        if not (root := root_path()):
            return Response(document, content_type=MEDIA_TYPE)
        below = describe(parts.handlers, prefix=root + parts.prefix)
        return Response(msgspec.json.encode(below), content_type=MEDIA_TYPE)


def describe(handlers: HandlerRegistry, *, prefix: str = "") -> Object:
    """The document, with the payload types of these handlers."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "trio-jobs",
            "version": _version(),
            "description": "Submit jobs, wait for them, cancel them. "
            "Clients must accept fields and outcomes that they do not know.",
        },
        # A server without a token asks nobody for one.
        "security": [{}, {"token": []}],
        **({"servers": [{"url": prefix}]} if prefix else {}),
        "paths": _paths(),
        "components": {
            "schemas": schemas.components(handlers),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "headers": _HEADERS,
            "parameters": _PARAMETERS,
            "responses": {f"Problem{status}": _problem(status) for status in _PROBLEMS},
        },
    }


def _version() -> str:
    try:
        return metadata.version("trio-jobs")
    except metadata.PackageNotFoundError:  # run from the source, not installed
        return "0"


def _paths() -> Object:
    job, brief = _ref("Job"), _ref("BriefJob")
    either = {"anyOf": [brief, job]}  # all of it if the answer has waited
    applied = ("Preference-Applied",)
    return {
        "/jobs": {
            "post": _operation(
                "submitJob",
                "Submit a job",
                {"201": _answer("The job", either, "Location", "Idempotent-Replayed", *applied)},
                "408 413 415 422 429 503",
                parameters=("Prefer", "IdempotencyKey"),
                body=_body(_ref("Submission")),
            ),
            "get": _operation(
                "listJobs",
                "List jobs, in the order of their submission",
                {"200": _answer("The jobs", _array(brief), "Link")},
                parameters=("Status", "Type", "Outcome", "Limit", "After"),
            ),
        },
        "/jobs/batch": {
            "post": _operation(
                "submitBatch",
                "Submit many jobs: all of them or none",
                {"201": _answer("The jobs, in the same order", _array(brief))},
                "408 413 415 429 503",
                body=_body(_array(_ref("Submission"))),
            ),
        },
        "/jobs/stream": {
            "post": _operation(
                "submitStream",
                "Submit jobs without end, one a line, as room appears",
                {"201": _answer("How many are in", _ref("Accepted"))},
                "408 413 415 503",
                body={
                    **_body(_ref("Submission"), media_type="application/x-ndjson"),
                    "description": "Each line is a submission",
                    "required": False,  # no lines are none
                },
            ),
        },
        "/jobs/{id}": {
            "parameters": [_parameter_ref("Id")],
            "get": _operation(
                "getJob",
                "Look a job up, or wait for it",
                {"200": _answer("The job", job, "Retry-After", *applied)},
                "404",
                parameters=("Prefer",),
            ),
            "delete": _operation(
                "deleteJob",
                "Forget a completed job",
                {"204": {"description": "It is forgotten"}},
                "404 409",
            ),
        },
        "/jobs/{id}/cancel": {
            "parameters": [_parameter_ref("Id")],
            "post": _operation(
                "cancelJob",
                "Cancel a job",
                {
                    "200": _answer("The job, completed as cancelled", job, *applied),
                    "202": _answer("The job, which will be cancelled", job, *applied),
                },
                "404 409",
                parameters=("Prefer",),
            ),
        },
        "/health": {
            "get": _operation("health", "Is it alive?", {"200": _answer("It is", _ref("Health"))}),
        },
        "/health/ready": {
            "get": _operation(
                "ready",
                "Does it take jobs?",
                {
                    "200": _answer("It does", _ref("PoolStatus")),
                    "503": _answer("It is shutting down", _ref("PoolStatus")),
                },
            ),
        },
        "/openapi.json": {
            "get": _operation(
                "openapi", "This document", {"200": _answer("The document", {"type": "object"})}
            ),
        },
    }


def _operation(
    name: str,
    summary: str,
    answers: Object,
    problems: str = "",
    *,
    parameters: tuple[str, ...] = (),
    body: Object | None = None,
) -> Object:
    """One method of a path; ``problems`` are the statuses of its errors beside those of all."""
    statuses = sorted({*problems.split(), "400", "401", "403", "500"} - {*answers})
    operation: Object = {
        "operationId": name,
        "summary": summary,
        "responses": {
            **answers,
            **{each: {"$ref": f"#/components/responses/Problem{each}"} for each in statuses},
        },
    }
    if parameters:
        operation["parameters"] = [_parameter_ref(each) for each in parameters]
    if body is not None:
        operation["requestBody"] = body
    return operation


def _answer(description: str, schema: Object, *headers: str) -> Object:
    answer: Object = {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": schema}},
    }
    if headers:
        answer["headers"] = {each: {"$ref": f"#/components/headers/{each}"} for each in headers}
    return answer


def _problem(status: str) -> Object:
    headers = {
        "401": ("WWW-Authenticate",),
        "415": ("Accept-Encoding",),
        "429": ("Retry-After",),
        "503": ("Retry-After",),
    }
    answer = _answer(_PROBLEMS[status], _ref("Problem"), *headers.get(status, ()))
    answer["content"] = {"application/problem+json": answer["content"].pop(MEDIA_TYPE)}
    return answer


def _body(schema: Object, *, media_type: str = MEDIA_TYPE) -> Object:
    return {"required": True, "content": {media_type: {"schema": schema}}}


def _array(items: Object) -> Object:
    return {"type": "array", "items": items}


def _ref(name: str) -> Object:
    return {"$ref": schemas.REF.format(name=name)}


def _parameter_ref(name: str) -> Object:
    return {"$ref": f"#/components/parameters/{name}"}


def _header(description: str, **schema: object) -> Object:
    return {"description": description, "schema": {"type": "string", **schema}}


_HEADERS: Object = {
    "Location": _header("Where the job is"),
    "Link": _header("The next page, if there is one (RFC 8288)"),
    "Retry-After": _header("Whole seconds", pattern="^[0-9]+$"),
    "Preference-Applied": _header("The wait that was granted", pattern="^wait=[0-9]+$"),
    "Idempotent-Replayed": _header("This is the first answer again", const="true"),
    "WWW-Authenticate": _header("Bearer"),
    "Accept-Encoding": _header("What a body may have", const="identity"),
}


def _parameter(place: str, name: str, description: str, schema: Object) -> Object:
    return {
        "in": place,
        "name": name,
        "description": description,
        "required": place == "path",
        "schema": schema,
    }


def _filter(name: str, items: Object) -> Object:
    return _parameter("query", name, "Repeatable: any of them", {"type": "array", "items": items})


_UUID: Object = {"type": "string", "format": "uuid"}

_PARAMETERS: Object = {
    "Id": _parameter("path", "id", "The job's id", _UUID),
    "Prefer": _parameter(
        "header",
        "Prefer",
        "`wait=N` (RFC 7240): answer when the job has completed, or after N seconds",
        {"type": "string", "examples": ["wait=10"]},
    ),
    "IdempotencyKey": _parameter(
        "header",
        "Idempotency-Key",
        "The same key and body again get the first answer again, and no second job",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
    ),
    "Status": _filter("status", schemas.STATUS),
    "Type": _filter("type", schemas.TYPE),
    "Outcome": _filter("outcome", schemas.OUTCOME),
    "Limit": _parameter(
        "query",
        "limit",
        "How many jobs a page has; all of them without it",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
    ),
    "After": _parameter("query", "after", "List the jobs after this one", _UUID),
}
