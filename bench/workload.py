"""What is submitted, and the handler that does nothing with it."""

import json

import trio

# 60 bytes, as the table asks for.
PAYLOAD = {"to": "user@example.com", "subject": "Hello", "number": 12}
SUBMISSION = json.dumps({"type": "email", "payload": PAYLOAD}).encode()


async def empty(_: object) -> None:
    """Do nothing: what is left is the server's own share."""


async def forever(_: object) -> None:
    """Never end."""
    await trio.sleep_forever()


def batch(jobs: int) -> bytes:
    """The body of one `POST /jobs/batch`."""
    return b"[" + b",".join([SUBMISSION] * jobs) + b"]"


def lines(jobs: int) -> bytes:
    """A part of the body of a `POST /jobs/stream`."""
    return (SUBMISSION + b"\n") * jobs
