"""The frames between the server and a child process: a kind, a length, and mostly JSON.

A payload crosses as it was submitted, a result as it will be kept, an exception as its
description. So nothing needs to be picklable.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import IntEnum
from struct import Struct
from typing import TypeVar

import msgspec

HEADER = Struct("!BI")

# When a function ended, a reading of `time.perf_counter`, and how many seconds it ran. All
# processes of a system share this clock.
TIMES = Struct("!dd")

# The largest frame, in bytes, that has no payload and no result: texts of 20,000 characters fit.
_MAX_OTHER = 1_048_576

_T = TypeVar("_T", bound=msgspec.Struct)


class Kind(IntEnum):
    """The content of a frame."""

    SETTINGS = 1  # to the child, once
    HELLO = 2  # the child's answer to the settings
    CALL = 3  # to the child: a job
    LOG = 4  # a `LogLine`
    RESULT = 5  # the job's result, as JSON
    FAILURE = 6  # a `Failure`
    ENDED = 7  # when the function ended, `TIMES`; precedes its result or failure
    PROGRESS = 8  # a `ProgressReport`
    SKIPPED = 9  # the answer to a job that was not allowed to begin; empty


class FrameError(Exception):
    """Bytes that are not a frame, or a frame out of order."""


class FileState(msgspec.Struct, frozen=True, array_like=True):
    """The state of a module's file."""

    file: str
    mtime_ns: int
    size: int
    digest: str | None  # of the content, if the file was written since the server's start


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """The program that was started, for functions that the program itself defines."""

    module: str | None  # if the program was started with ``python -m``
    file: str | None


class Function(msgspec.Struct, frozen=True, array_like=True):
    """A handler's function."""

    name: str
    spread: bool | None  # see `Handler`


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the server that a child takes over, to run functions as the server would."""

    path: list[str]  # ``sys.path``
    arguments: list[str]  # ``sys.argv``
    functions: list[Function]  # to import at the start
    lifespan: str | None  # the name of the function that opens what the functions share
    program: Program | None  # which defines some of them
    files: Mapping[str, FileState]  # that the server has imported, by the modules' names
    log_level: int  # the lowest level that the server's log takes


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a child's imports."""

    changed: list[str]  # the files that differ from those that the server has imported
    shortage: str | None  # the resource that the child has run out of
    faulty: bool  # whether an import failed that has succeeded in the server


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job: the function to call, its payload, and what the job's context says."""

    job_id: str
    job_type: str
    submitted_at: datetime
    attempt: int
    last_attempt: bool
    function: Function
    payload: msgspec.Raw
    max_result_bytes: int
    trace: str | None = None  # the attempt's ``traceparent``, with tracing


def pack(value: Settings | Hello) -> bytes:
    """A body that holds names of files, which may be no valid Unicode.

    Python's JSON escapes such text; msgspec's refuses it.
    """
    return json.dumps(msgspec.to_builtins(value)).encode()


def unpack(body: bytes, type: type[_T]) -> _T:  # noqa: A002
    """The value that was packed.

    Raises:
        FrameError: The body is no JSON.
        msgspec.ValidationError: It is not of this type.
    """
    try:
        found = json.loads(body)
    except ValueError as error:
        raise FrameError(f"a body is no JSON: {error}") from error
    return msgspec.convert(found, type)


def frame(kind: Kind, body: bytes) -> bytes:
    """A frame with this body."""
    return HEADER.pack(kind, len(body)) + body


# A lookup in a dict takes a fifth of the time of a call of the enum.
_KINDS = {int(kind): kind for kind in Kind}
_RESULT = Kind.RESULT


class FrameReader:
    """Takes bytes as they arrive, and gives frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # where the next frame begins; all before is taken

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next(self, *, max_result_bytes: int = 0) -> tuple[Kind, bytes] | None:
        """The next frame; None until all of it has arrived.

        Raises:
            FrameError: The frame's kind is unknown, or the frame is too large.
        """
        start = self._at + HEADER.size
        if len(self._buffer) < start:
            return None
        number, length = HEADER.unpack_from(self._buffer, self._at)
        kind = _KINDS.get(number)
        if kind is None:
            raise FrameError(f"no frame is of kind {number}")
        if length > (max_result_bytes if kind is _RESULT else _MAX_OTHER):
            raise FrameError(f"a frame of {length} bytes is too large")
        end = start + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[start:end])
        self._at = end
        return kind, body
