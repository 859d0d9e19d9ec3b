"""`Leftovers`: the file in which a stop leaves the jobs that it could not finish.

Each is one line as ``POST /jobs/stream`` takes it. Those whose work has not begun are in the one
file, to be taken up again as they are; those that were interrupted may have done a part of theirs,
and are in another one beside it.
"""

import errno
import os
import queue
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

from trio_jobs.job import Job
from trio_jobs.pool.store import UnfinishedJobs

# One write's worth: whole lines, of which one may be longer.
_CHUNK_BYTES = 1024 * 1024

# Files of earlier stops that nobody has taken away; then something is wrong.
_MAX_NAMES = 1_000

_TOO_SLOW = "not written in time"

Line = tuple[str, Mapping[str, object]]


class LeftoversError(Exception):
    """The file cannot be where it is wanted."""


class Leftovers:
    """Writes the unfinished jobs once, in a thread of its own: a disk may take for ever.

    Nothing is overwritten: where there is such a file already, of a stop whose jobs nobody has
    taken up, the new one gets a number. To add to it would run those jobs again that somebody has
    taken up without taking the file away. It is written under its own name and not under another
    one first: a process that is ended meanwhile leaves the lines that it has written.

    Args:
        path: Of the file; the folder must be there.

    Raises:
        LeftoversError: The folder cannot be written to, or there is something else at the path.
    """

    def __init__(self, path: Path) -> None:
        # Absolute now: the working folder is user code's to change, later.
        self._path = path.absolute()
        self._interrupted = _beside(self._path, "interrupted")
        for each in (self._path, self._interrupted):
            _check(each)
        self._reserved = -1
        self._count = {"interrupted": 0, "not_started": 0}
        self._fields: dict[str, object] = {}
        self._causes: list[str] = []
        self._ended = False
        # Used in signal handlers, which may interrupt a thread that is using them: neither an
        # Event nor a Condition is for that. The lock is held until all is written.
        self._asked: queue.SimpleQueue[tuple[UnfinishedJobs, float]] = queue.SimpleQueue()
        self._writing = threading.Lock()

    def found(self) -> list[Path]:
        """The files of an earlier stop that are still there."""
        return [each for each in (self._path, self._interrupted) if each.exists()]

    def start(self) -> None:
        """Start the thread. When it is needed there may be none to be had."""
        # A descriptor, for when handlers have used up all others.
        self._reserved = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._writing.acquire()
        threading.Thread(target=self._run, name="leftovers", daemon=True).start()

    def begin(self, jobs: UnfinishedJobs, *, seconds: float) -> None:
        """Begin to write these jobs, for so many seconds at the most; only the first call does."""
        self._asked.put((jobs, seconds))  # the thread takes one and no more

    def wait(self, seconds: float) -> bool:
        """Wait until the files are written, or cannot be; False if that takes longer."""
        ended = self._writing.acquire(timeout=max(seconds, 0))
        if ended:
            self._writing.release()
        return ended

    def line(self) -> Line:
        """What has become of it so far, for the log."""
        fields = {**self._count, **self._fields}
        if self._ended and not self._causes:
            return "leftovers_written", fields
        cause = "; ".join(self._causes) or _TOO_SLOW
        return "leftovers_not_written", {"cause": cause, **fields}

    def _run(self) -> None:
        jobs, seconds = self._asked.get()
        end = time.monotonic() + seconds
        os.close(self._reserved)
        try:
            cancelled = sum(job.cancel_requested for job in (*jobs.begun, *jobs.not_begun))
            if cancelled:
                self._fields["cancelled"] = cancelled
            self._write("interrupted", jobs.begun, end)
            self._write("not_started", jobs.not_begun, end)
            self._ended = True
        finally:
            self._writing.release()

    def _write(self, what: str, jobs: Sequence[Job], end: float) -> None:
        # Nobody wants a job that a client has asked to cancel.
        wanted = [job for job in jobs if not job.cancel_requested]
        if not wanted:
            return
        begun = what == "interrupted"
        path = self._interrupted if begun else self._path
        try:
            with _created(path) as (fd, name):
                self._fields["interrupted_path" if begun else "path"] = str(name)
                for chunk in _chunks(map(_line, wanted)):
                    self._append(fd, chunk, what, end)
        except (OSError, MemoryError) as error:
            cause = error.strerror if isinstance(error, OSError) else None
            self._causes.append(f"{path}: {cause or type(error).__name__}")

    def _append(self, fd: int, lines: bytes, what: str, end: float) -> None:
        """Append and count these lines, or as many whole ones as there is room for."""
        written = 0
        try:
            while written < len(lines):
                if time.monotonic() > end:
                    raise TimeoutError(errno.ETIMEDOUT, _TOO_SLOW)
                written += os.write(fd, lines[written : written + _CHUNK_BYTES])
        finally:
            whole = lines.rfind(b"\n", 0, written) + 1
            self._count[what] += lines.count(b"\n", 0, whole)
            if whole < written:
                os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR) - (written - whole))


def _check(path: Path) -> None:
    if not path.parent.is_dir():
        raise LeftoversError(f"the folder {str(path.parent)!r} does not exist")
    try:
        # Not `os.access`, which says yes to root, even of /proc.
        with NamedTemporaryFile(dir=path.parent, prefix=".leftovers-"):
            pass
    except OSError as error:
        cause = f"the folder {str(path.parent)!r} cannot be written to: {error.strerror}"
        raise LeftoversError(cause) from error
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:  # the name is too long
        raise LeftoversError(f"{str(path)!r}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise LeftoversError(f"{str(path)!r} is there, and is no regular file")


def _beside(path: Path, word: str) -> Path:
    """``leftovers.jsonl`` → ``leftovers.WORD.jsonl``."""
    return path.with_name(f"{path.stem}.{word}{path.suffix}")


@contextmanager
def _created(path: Path) -> Iterator[tuple[int, Path]]:
    """A new file: its descriptor, and the name that it has got."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for n in range(_MAX_NAMES):
        name = _beside(path, str(n)) if n else path
        try:
            fd = os.open(name, flags, 0o600)
        except FileExistsError:
            continue
        try:
            yield fd, name
        finally:
            os.close(fd)
        return
    raise FileExistsError(errno.EEXIST, f"{_MAX_NAMES} files of earlier stops are there")


def _line(job: Job) -> bytes:
    # A line end may stand between two tokens of the JSON that the client has sent, and nowhere
    # else. As short as can be: a submission may have been as long as a line may be.
    payload = job.payload.replace(b"\n", b" ")
    rest = b"" if payload == b"null" else b',"payload":' + payload
    return b'{"type":' + msgspec.json.encode(job.type) + rest + b"}\n"


def _chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line)
        if size > _CHUNK_BYTES:
            yield b"".join(chunk)
            chunk, size = [], 0
    if chunk:
        yield b"".join(chunk)
