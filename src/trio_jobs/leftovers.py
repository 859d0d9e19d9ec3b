"""`Leftovers`: writes the jobs that are unfinished at a stop to files.

A job is one line as ``POST /jobs/stream`` takes it. Jobs whose work has not begun, or that are held
or wait for a time, are in one file, to be submitted again as they are; interrupted jobs, which may
have done a part of their work, are in another file beside it.
"""

import errno
import itertools
import os
import queue
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

from trio_jobs.job import Job, Waiting
from trio_jobs.pool.store import UnfinishedJobs
from trio_jobs.pool.unfinished import Line

# The most bytes of one write. A chunk has whole lines, and ends with the line that exceeds this.
_CHUNK_BYTES = 1024 * 1024

_TOO_SLOW = "not written in time"


class LeftoversError(Exception):
    """The files cannot be written at the configured path."""


class Leftovers:
    """Writes the unfinished jobs once, in a thread of its own: a disk may hang.

    An existing file of an earlier stop is kept, and the new one gets a number: an operator who has
    submitted the old jobs again would submit them twice from a joint file. A file has its final
    name from the beginning: a process that is killed while it writes leaves the lines written so
    far.

    Args:
        path: The file for the jobs that have not begun; its name with ``.interrupted`` before the
            suffix is the other file.

    Raises:
        LeftoversError: The folder does not exist or cannot be written to, or something other than
            a regular file is at one of the paths.
    """

    def __init__(self, path: Path) -> None:
        # Absolute now: user code may change the working folder later.
        try:
            self._path = path.absolute()
        except FileNotFoundError as error:
            text = f"{str(path)!r} starts at the current folder, which was removed"
            raise LeftoversError(text) from error
        self._interrupted = _beside(self._path, "interrupted")
        for each in (self._path, self._interrupted):
            _check(each)
        self._reserved = -1
        self._count = {"interrupted": 0, "not_started": 0}
        self._fields: dict[str, object] = {}
        self._causes: list[str] = []
        self._ended = False
        # A signal handler may interrupt a thread that is inside one of these two, and use both: an
        # Event or a Condition would then deadlock. `start` takes the lock, and the thread releases
        # it when it has written all.
        self._asked: queue.SimpleQueue[tuple[UnfinishedJobs, float]] = queue.SimpleQueue()
        self._writing = threading.Lock()

    def found(self) -> list[Path]:
        """Return the files of an earlier stop that are still there."""
        return [each for each in (self._path, self._interrupted) if each.exists()]

    def start(self) -> None:
        """Start the thread now: at the end, the system may have no thread or descriptor left."""
        self._reserved = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._writing.acquire()
        threading.Thread(target=self._run, name="leftovers", daemon=True).start()

    def begin(self, jobs: UnfinishedJobs, *, seconds: float) -> None:
        """Begin to write these jobs, for at most ``seconds``; later calls do nothing."""
        self._asked.put((jobs, seconds))  # the thread takes only the first

    def wait(self, seconds: float) -> bool:
        """Wait until the files are written or have failed; False if that takes longer."""
        ended = self._writing.acquire(timeout=max(seconds, 0))
        if ended:
            self._writing.release()
        return ended

    def line(self) -> Line:
        """Return the state of the files for the log."""
        fields = {**self._count, **self._fields}
        if self._ended and not self._causes:
            return "leftovers_written", fields
        cause = "; ".join(self._causes) or _TOO_SLOW
        return "leftovers_not_written", {"reason": cause, **fields}

    def _run(self) -> None:
        jobs, seconds = self._asked.get()
        end = time.monotonic() + seconds
        os.close(self._reserved)
        try:
            # A waiting job may be submitted again as well: its handler has asked for an attempt.
            not_begun = sorted((*jobs.not_begun, *jobs.waiting, *jobs.held), key=attrgetter("id"))
            cancelled = sum(job.cancel_requested for job in (*jobs.begun, *not_begun))
            if cancelled:
                self._fields["cancelled"] = cancelled
            self._write(self._interrupted, jobs.begun, "interrupted", "interrupted_path", end)
            self._write(self._path, not_begun, "not_started", "path", end)
            self._ended = True
        finally:
            self._writing.release()

    def _write(self, path: Path, jobs: Sequence[Job], count: str, field: str, end: float) -> None:
        # No client wants a job of which cancellation was requested.
        wanted = [job for job in jobs if not job.cancel_requested]
        if not wanted:
            return
        try:
            with _created(path) as (fd, name):
                self._fields[field] = str(name)
                for chunk in _chunks(map(_line, wanted)):
                    self._append(fd, chunk, count, end)
        except (OSError, MemoryError) as error:
            cause = error.strerror if isinstance(error, OSError) else None
            self._causes.append(f"{path}: {cause or type(error).__name__}")

    def _append(self, fd: int, lines: bytes, count: str, end: float) -> None:
        """Append and count these lines, or as many whole ones as there is room and time for."""
        written = 0
        try:
            while written < len(lines):
                if time.monotonic() > end:
                    raise TimeoutError(errno.ETIMEDOUT, _TOO_SLOW)
                written += os.write(fd, lines[written : written + _CHUNK_BYTES])
        finally:
            whole = lines.rfind(b"\n", 0, written) + 1
            self._count[count] += lines.count(b"\n", 0, whole)
            if whole < written:
                os.ftruncate(fd, os.lseek(fd, 0, os.SEEK_CUR) - (written - whole))


def _check(path: Path) -> None:
    folder = str(path.parent)
    if not path.parent.is_dir():
        raise LeftoversError(f"the folder {folder!r} does not exist")
    try:
        # Try it: to root, `os.access` says yes even for /proc.
        with NamedTemporaryFile(dir=folder, prefix=".leftovers-"):
            pass
    except OSError as error:
        cause = f"the folder {folder!r} cannot be written to: {error.strerror}"
        raise LeftoversError(cause) from error
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise LeftoversError(f"{str(path)!r} is there, and is no regular file")
    except FileNotFoundError:
        pass
    except OSError as error:  # the name is too long
        raise LeftoversError(f"{str(path)!r}: {error.strerror}") from error


def _beside(path: Path, word: str) -> Path:
    """``leftovers.jsonl`` → ``leftovers.WORD.jsonl``."""
    return path.with_name(f"{path.stem}.{word}{path.suffix}")


@contextmanager
def _created(path: Path) -> Iterator[tuple[int, Path]]:
    """Create a file under the first free name; yield its descriptor and its path."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    for n in itertools.count():
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


def _line(job: Job) -> bytes:
    # In valid JSON a line feed stands only between tokens. The line has no spare bytes: the job may
    # have come in a submission as long as the longest line that the server takes.
    payload = job.payload.replace(b"\n", b" ")
    rest = b"" if payload == b"null" else b',"payload":' + payload
    if job.waiting is Waiting.DELAYED:
        rest += b',"run_at":' + msgspec.json.encode(job.run_at)
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
