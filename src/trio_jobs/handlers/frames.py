"""What a server and its child processes send each other: frames of a kind, a length and JSON.

Bytes and text alone cross: a payload comes as it was submitted, a result goes as it will be kept,
an exception as its description. So nothing has to be picklable.
"""

from collections.abc import Mapping
from enum import IntEnum
from struct import Struct

import msgspec

HEADER = Struct("!BI")

# By `time.perf_counter`, which counts alike in all processes of a system.
TIME = Struct("!d")

# Bytes of a frame that holds neither a payload nor a result: texts of 20,000 characters, and some.
_MAX_OTHER = 1_048_576

# As in a log line: characters of a text, and of a traceback.
MAX_LOG_TEXT = 2_000
MAX_LOG_TRACEBACK = 20_000


class Kind(IntEnum):
    """What a frame holds."""

    SETTINGS = 1  # to the child, once
    HELLO = 2  # the child's answer to that
    CALL = 3  # to the child: a job
    LOG = 4
    RESULT = 5  # the job's result, which is the JSON itself
    FAILURE = 6  # a `Failure`
    ENDED = 7  # when the function ended, a `TIME`: just before its result or failure


class FrameError(Exception):
    """What came is no frame."""


class FileState(msgspec.Struct, frozen=True, array_like=True):
    """A module's file as it was.

    Attributes:
        file: Its path.
        mtime_ns: When it was written.
        size: In bytes.
        digest: Of its content, if it was written since the server was started.
    """

    file: str
    mtime_ns: int
    size: int
    digest: str | None


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """The program that was started, for functions that are defined in it.

    Attributes:
        module: Its name, if it was started with ``python -m``.
        file: Its file otherwise.
    """

    module: str | None
    file: str | None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a child needs to run functions as the server would.

    Attributes:
        path: ``sys.path``.
        arguments: ``sys.argv``.
        names: The functions that will run there, imported when it starts.
        program: Where those are that the program itself defines.
        files: What the server has imported, by the modules' names.
        log_level: The least level of lines that the server's log takes.
    """

    path: list[str]
    arguments: list[str]
    names: list[str]
    program: Program | None
    files: Mapping[str, FileState]
    log_level: int


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """A child has imported what it could.

    Attributes:
        changed: The files of modules that are not what the server has imported.
        shortage: What the child has run out of, if it has.
        faulty: Whether anything could not be imported that the server has imported.
    """

    changed: list[str]
    shortage: str | None
    faulty: bool


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A job: which function to call, and with what."""

    job_id: str
    name: str
    payload: msgspec.Raw
    max_result_bytes: int


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A log record; the names are those of `logging`."""

    name: str
    level: int
    level_name: str
    text: str
    created: float
    process: int
    path: str
    line: int
    function: str | None
    thread_name: str | None
    job_id: str | None
    traceback: str | None
    stack: str | None
    fields: dict[str, str | int | float | bool | None]


def frame(kind: Kind, body: bytes) -> bytes:
    """A frame with this body."""
    return HEADER.pack(kind, len(body)) + body


class FrameReader:
    """Takes bytes as they come, and gives frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._buffer += data

    def holds(self, kind: Kind) -> bool:
        """Whether a frame of this kind has come, or the beginning of one."""
        at = 0
        while len(self._buffer) - at >= HEADER.size:
            found, length = HEADER.unpack_from(self._buffer, at)
            if found == kind:
                return True
            at += HEADER.size + length
        return False

    def next(self, *, max_result_bytes: int = 0) -> tuple[Kind, bytes] | None:
        """The next frame; None as long as it is not complete.

        Raises:
            FrameError: It is of no kind that there is, or too large.
        """
        if len(self._buffer) < HEADER.size:
            return None
        kind, length = HEADER.unpack_from(self._buffer)
        if kind not in Kind._value2member_map_:
            raise FrameError(f"no frame is of kind {kind}")
        if length > (max_result_bytes if kind == Kind.RESULT else _MAX_OTHER):
            raise FrameError(f"a frame of {length} bytes is too large")
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return Kind(kind), body
