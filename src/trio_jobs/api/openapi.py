"""`GET /openapi.json`: the document `openapi.json`, completed with the payloads of the handlers."""

import functools
from importlib import metadata, resources
from typing import Any, Final, NamedTuple

import msgspec
from quart import Quart, Response

from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.quart_adapter import root_path
from trio_jobs.api.serialization import MEDIA_TYPE
from trio_jobs.handlers.registry import DEFAULT, HandlerRegistry
from trio_jobs.job import MAX_DELAY

Object = dict[str, Any]

_SCHEMAS: Final = "#/components/schemas/"

# Keeps the names of payload types apart from those of the document's own schemas.
_PREFIX: Final = "Payload."


def add_openapi_route(app: Quart, context: ApiContext) -> None:
    """Add ``GET /openapi.json``."""
    source = _source()  # at the start: what is installed later is of another version

    @functools.cache  # most servers are never asked
    def make_document() -> Object:
        document = _describe(context.pool.handlers, source)
        if context.metrics is None:
            del document["paths"]["/metrics"]
        return document

    @app.get("/openapi.json")
    async def openapi() -> Response:
        root, document = root_path(), make_document()
        served = {**document, "servers": [{"url": root}]} if root else document
        return Response(msgspec.json.encode(served), content_type=MEDIA_TYPE)


class _Source(NamedTuple):
    """What the documents of a version have in common."""

    text: bytes
    version: str


def describe(handlers: HandlerRegistry) -> Object:
    """The document for these handlers, as served at the root."""
    return _describe(handlers, _source())


def _source() -> _Source:
    text = resources.files("trio_jobs.api").joinpath("openapi.json").read_bytes()
    return _Source(text, _version())


def _describe(handlers: HandlerRegistry, source: _Source) -> Object:
    document: Object = msgspec.json.decode(source.text)
    document["info"]["version"] = source.version
    payloads = handlers.schemas(ref_template=f"{_SCHEMAS}{_PREFIX}{{name}}")
    schemas: Object = document["components"]["schemas"]
    for name, schema in payloads.components.items():
        schemas[_PREFIX + name] = dict(schema)
    submissions = [
        _submission(handlers, name, dict(schema)) for name, schema in payloads.types.items()
    ]
    schemas["Submission"] = {"oneOf": submissions}
    schemas["Item"] = {"oneOf": [_with_key(each) for each in submissions]}
    return document


def _version() -> str:
    try:
        return metadata.version("trio-jobs")
    except metadata.PackageNotFoundError:  # run from the source, not installed
        return "0"


def _with_key(submission: Object) -> Object:
    """The schema of a submission among others, which may have a key of its own."""
    key: Object = {
        "type": "string",
        "pattern": "^[!-~]{1,255}$",
        "description": "Its idempotency key",
    }
    return {**submission, "properties": {**submission["properties"], "key": key}}


def _submission(handlers: HandlerRegistry, name: str, payload: Object) -> Object:
    """The schema of one handler's submissions; ``default`` takes the types of no other handler."""
    type_: Object = {"const": name}
    if name == DEFAULT:
        type_ = {"type": "string", "minLength": 1}
        if others := sorted(handlers.table.keys() - {DEFAULT}):
            type_["not"] = {"enum": others}
    required = ["type"]
    try:  # a submission without a payload has the payload null
        handlers.find(name).decode(b"null")
    except msgspec.ValidationError:
        required.append("payload")
    return {
        "type": "object",
        "properties": {
            "type": type_,
            "payload": payload,
            "delay": {
                "type": "number",
                "minimum": 0,
                "maximum": MAX_DELAY,
                "description": "After how many seconds it may begin",
            },
            "run_at": {
                "type": "string",
                "format": "date-time",
                "description": "When it may begin, within ten years; a past time is now",
            },
        },
        "required": required,
        "not": {"required": ["delay", "run_at"]},
        "additionalProperties": False,
    }
