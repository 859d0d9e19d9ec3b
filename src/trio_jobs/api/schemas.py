"""The JSON schemas of what clients send and get, for the OpenAPI document."""

from typing import Any

import msgspec

from trio_jobs.handlers.registry import DEFAULT, HandlerRegistry
from trio_jobs.job import JobStatus, Outcome

Object = dict[str, Any]

REF = "#/components/schemas/{name}"

TYPE: Object = {"type": "string", "minLength": 1}
STATUS: Object = {"type": "string", "enum": [str(status) for status in JobStatus]}
OUTCOME: Object = {"type": "string", "enum": [str(outcome) for outcome in Outcome]}

_TEXT: Object = {"type": "string"}
_COUNT: Object = {"type": "integer", "minimum": 0}
_TIME: Object = {"type": "string", "format": "date-time"}

_BRIEF: Object = {
    "id": {"type": "string", "format": "uuid"},
    "type": TYPE,
    "status": STATUS,
    "created_at": _TIME,
    "started_at": _TIME,
    "completed_at": _TIME,
    "duration": {
        "type": "number",
        "minimum": 0,
        "description": "Seconds from started_at to completed_at, by a clock that nobody sets",
    },
    "outcome": OUTCOME,
}

_ALWAYS = ["id", "type", "status", "created_at"]

# Names that payload types may not take in the document.
_PREFIX = "Payload."


def components(handlers: HandlerRegistry) -> Object:
    """All schemas by name, those of the handlers' payload types included."""
    payloads = handlers.schemas(ref_template=REF.format(name=_PREFIX + "{name}"))
    return {
        "Submission": {
            "oneOf": [
                _submission(handlers, name, dict(schema)) for name, schema in payloads.types.items()
            ]
        },
        "BriefJob": _object(_BRIEF, _ALWAYS),
        "Job": _object(
            {
                **_BRIEF,
                "payload": {"description": "What was submitted"},
                "result": {"description": "What the handler returned, if the job succeeded"},
                "error": _object({"type": _TEXT, "message": _TEXT}, ["type", "message"]),
            },
            [*_ALWAYS, "payload"],
        ),
        "Accepted": _object({"accepted": _COUNT}, ["accepted"]),
        "Health": _object({"status": {"const": "ok"}}, ["status"]),
        "PoolStatus": _object(
            {
                "status": {"enum": ["ready", "shutting down"]},
                "workers": _COUNT,
                "busy": _COUNT,
                "buffered": _COUNT,
                "buffer_size": _COUNT,
                "oldest_running_seconds": {"type": ["number", "null"]},
                "blocked": {
                    "type": ["string", "null"],
                    "description": "Why jobs that have a worker cannot begin, if they cannot",
                },
                "dropped": {
                    "type": "object",
                    "additionalProperties": _COUNT,
                    "description": "Completed jobs that had to make room for others, by outcome",
                },
            },
            [
                "status",
                "workers",
                "busy",
                "buffered",
                "buffer_size",
                "oldest_running_seconds",
                "blocked",
                "dropped",
            ],
        ),
        "Problem": _object(
            {
                "type": _TEXT,
                "title": _TEXT,
                "status": {"type": "integer"},
                "detail": _TEXT,
                "error": {**_TEXT, "description": "The same as `detail`"},
                "limit": {**_COUNT, "description": "The limit that was broken"},
                "types": {"type": "array", "items": TYPE, "description": "Those with a handler"},
                "index": {"type": "array", "items": _COUNT, "description": "A batch's bad items"},
                "line": {**_COUNT, "description": "A stream's bad line, the first one being 1"},
                "accepted": {**_COUNT, "description": "How many jobs of a stream are in"},
                "outcome": OUTCOME,
                "retry_after": {**_COUNT, "description": "Seconds"},
            },
            ["type", "title", "status", "detail", "error"],
        ),
        **{_PREFIX + name: dict(schema) for name, schema in payloads.components.items()},
    }


def _submission(handlers: HandlerRegistry, name: str, payload: Object) -> Object:
    """What one handler takes; that of ``default`` every type but those of the others."""
    type_: Object = {"const": name}
    if name == DEFAULT:
        others = sorted(handlers.table.keys() - {DEFAULT})
        type_ = {**TYPE, "not": {"enum": others}} if others else TYPE
    required = ["type"]
    try:  # a payload that is left out is null
        handlers.find(name).decode(b"null")
    except msgspec.ValidationError:
        required.append("payload")
    submission = _object({"type": type_, "payload": payload}, required)
    return {**submission, "additionalProperties": False}


def _object(properties: Object, required: list[str]) -> Object:
    return {"type": "object", "properties": properties, "required": required}
