"""What schemathesis does not know by itself: how to write a line of a stream."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def write_line(_context: object, value: object) -> bytes:
    """One line; the document describes what each of them holds."""
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"
