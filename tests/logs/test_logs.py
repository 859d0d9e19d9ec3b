"""Lines reach the stream in order; a stream that takes none costs lines, and nothing else."""

import itertools
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from quart import Quart

from tests.logs.pipe import Pipe
from tests.support import current_job_id
from trio_jobs.logs.formatter import LogFormatter
from trio_jobs.logs.installation import Logs, start_logging
from trio_jobs.logs.writer import MAX_QUEUED_BYTES, LogWriter
from trio_jobs.settings import LoggingSettings

# Far above what anything here needs.
TOO_LONG = 60

log = logging.getLogger("tests.logs")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def logs(pipe: Pipe) -> Iterator[Logs]:
    logs = start_logging(LoggingSettings(), fd=pipe.writer)
    yield logs
    logs.remove(seconds=0.1)


def events(lines: list[str]) -> list[str]:
    """The lines without time, level and logger."""
    return [line.split(" ", 3)[3] for line in lines]


def flushed(logs: Logs, pipe: Pipe) -> list[str]:
    """What has been logged so far."""
    assert logs.flush_within(seconds=TOO_LONG)
    return pipe.read()


def test_lines_of_the_level_come_in_order_to_a_descriptor_that_stays_as_it_is(
    logs: Logs, pipe: Pipe
) -> None:
    for n in range(500):
        log.debug("below")
        log.info("line", extra={"n": n})

    assert events(flushed(logs, pipe)) == [f"line n={n}" for n in range(500)]
    assert os.get_blocking(pipe.writer)


def test_log_file_that_is_emptied_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # as a shell's `2>>` does
    logs = start_logging(LoggingSettings(), fd=fd)
    try:
        log.info("first")
        assert logs.flush_within(seconds=TOO_LONG)
        os.truncate(path, 0)
        log.info("second")
        assert logs.flush_within(seconds=TOO_LONG)
    finally:
        logs.remove(seconds=TOO_LONG)
        os.close(fd)

    assert events(path.read_text().splitlines()) == ["second"]


def test_field_is_shown_as_it_was_when_it_was_logged(logs: Logs, pipe: Pipe) -> None:
    pipe.fill()
    ids = ["a"]
    log.info("jobs", extra={"ids": ids})
    ids.append("b")
    lines = pipe.read()

    assert events(lines + flushed(logs, pipe)) == ["jobs ids=\"['a']\""]


def test_unread_pipe_costs_lines_which_are_counted(logs: Logs, pipe: Pipe) -> None:
    pipe.fill()
    total = 10_000
    for n in range(total):
        log.info("line", extra={"n": n, "pad": "x" * 1000})

    lines = []
    while not logs.flush_within(seconds=0.001):
        lines += pipe.read()
    lines = events(lines + pipe.read())

    [note] = [line for line in lines if line.startswith("log_lines_dropped")]
    lines.remove(note)
    size = sum(map(len, lines))
    assert [line.split()[1] for line in lines] == [f"n={n}" for n in range(len(lines))]
    assert note == f"log_lines_dropped count={total - len(lines)}"
    assert 0.9 * MAX_QUEUED_BYTES < size < 1.1 * MAX_QUEUED_BYTES


def test_log_survives_its_reader_and_counts_what_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fd = os.open(path, os.O_WRONLY)
    logs = start_logging(LoggingSettings(), fd=fd)
    os.close(fd)
    os.close(reader)
    log.info("lost")
    log.info("lost")
    assert logs.flush_within(seconds=TOO_LONG)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    log.info("seen")
    logs.remove(seconds=TOO_LONG)
    lines = os.read(reader, 4096).decode().splitlines()
    os.close(reader)
    assert events(lines[-2:]) == ["seen", "log_lines_dropped count=2"]


def test_full_disk_is_not_the_services_problem() -> None:
    with Path("/dev/full").open("w") as disk:
        logs = start_logging(LoggingSettings(), fd=disk.fileno())
    log.info("line")

    assert logs.flush_within(seconds=TOO_LONG)
    logs.write_final("x", logging.ERROR, [("jobs_unfinished", {})], seconds=1)
    logs.remove(seconds=TOO_LONG)


def test_repr_that_hangs_holds_up_no_other_thread(logs: Logs, pipe: Pipe) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow:
        def __repr__(self) -> str:
            entered.set()
            leave.wait(TOO_LONG)
            return "slow"

    thread = threading.Thread(target=log.info, args=["a"], kwargs={"extra": {"x": Slow()}})
    thread.start()
    entered.wait(TOO_LONG)

    log.info("b")

    first = flushed(logs, pipe)[0]
    leave.set()
    thread.join()
    assert events([first]) == ["b"]


def test_signal_handler_may_log_in_the_middle_of_logging(logs: Logs, pipe: Pipe) -> None:
    class Signals:
        def __repr__(self) -> str:
            signal.raise_signal(signal.SIGUSR1)
            return "signals"

    previous = signal.signal(signal.SIGUSR1, lambda *_: log.info("inner"))
    log.info("outer", extra={"x": Signals()})
    signal.signal(signal.SIGUSR1, previous)

    assert events(flushed(logs, pipe)) == ["inner", "outer x=signals"]


def test_line_that_cannot_be_rendered_is_counted(pipe: Pipe) -> None:
    class Formatter(LogFormatter):
        def render(self, record: logging.LogRecord, *, max_bytes: int = 100) -> bytes:
            if record.msg == "bad":
                raise RuntimeError
            return super().render(record, max_bytes=max_bytes)

    writer = LogWriter(pipe.writer, Formatter())

    writer.handle(logging.makeLogRecord({"msg": "bad"}))
    writer.handle(logging.makeLogRecord({"msg": "good"}))

    writer.end_within(seconds=TOO_LONG)
    lines = pipe.read()
    assert lines[0].endswith("good")
    assert lines[1].endswith("log_lines_dropped count=1")


def test_final_lines_come_after_what_was_queued(logs: Logs, pipe: Pipe) -> None:
    for _ in range(100):
        log.info("line")

    logs.write_final(
        "trio_jobs.main",
        logging.ERROR,
        [("jobs_unfinished", {"job_ids": "a,b"}), ("jobs_not_started", {"job_ids": "c"})],
        seconds=TOO_LONG,
    )

    lines = events(pipe.read())
    assert lines[:-2] == ["line"] * 100
    assert lines[-2:] == ["jobs_unfinished job_ids=a,b", "jobs_not_started job_ids=c"]


def test_final_lines_give_up_at_their_deadline(logs: Logs, pipe: Pipe) -> None:
    pipe.fill()
    log.info("line")
    start = time.monotonic()

    logs.write_final("x", logging.ERROR, [("jobs_unfinished", {})], seconds=0.1)

    assert 0.1 <= time.monotonic() - start < TOO_LONG


def test_final_lines_end_at_their_deadline_also_when_the_stream_takes_everything(
    tmp_path: Path,
) -> None:
    written = 0

    def endless() -> Iterator[tuple[str, dict[str, object]]]:
        nonlocal written
        for written in itertools.count():
            yield "jobs_unfinished", {"job_ids": str(written)}

    with (tmp_path / "log").open("wb") as file:
        logs = start_logging(LoggingSettings(), fd=file.fileno())
        logs.write_final("x", logging.ERROR, endless(), seconds=0.1)
        logs.remove(seconds=TOO_LONG)

    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.partition("job_ids=")[2] for line in lines] == [str(n) for n in range(written)]


def test_final_lines_have_an_end_whatever_the_time(logs: Logs, pipe: Pipe) -> None:
    some: list[tuple[str, dict[str, object]]] = [("jobs_not_named", {"count": 1})]

    logs.write_final("x", logging.ERROR, [("job", {})], seconds=-1, last=lambda: some)

    assert events([line for line in pipe.read() if line]) == ["jobs_not_named count=1"]


def test_line_for_others_is_about_no_job(logs: Logs) -> None:
    token = current_job_id.set("a1")
    line = logs.render("trio_jobs.shutdown.stop", "hard limit reached", "File 1\nFile 2").decode()
    current_job_id.reset(token)

    assert line.endswith(
        "Z CRITICAL trio_jobs.shutdown.stop hard limit reached\n  File 1\n  File 2\n"
    )


def fail() -> None:
    raise ValueError("no")


def test_warnings_and_errors_that_nothing_catches_are_lines(logs: Logs, pipe: Pipe) -> None:
    class Bad:
        def __del__(self) -> None:
            fail()

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("look out", stacklevel=1)
    thread = threading.Thread(target=fail, name="t1")
    thread.start()
    thread.join()
    Bad()

    lines = flushed(logs, pipe)
    heads = [line for line in lines if not line.startswith("  ")]
    assert "WARNING py.warnings" in heads[0]
    assert heads[1].endswith("ERROR trio_jobs.logs thread_failed thread_name=t1")
    assert "ERROR trio_jobs.logs exception_ignored" in heads[2]
    assert lines.count("  ValueError: no") == 2


def test_what_quart_logs_is_one_line(logs: Logs, pipe: Pipe) -> None:
    Quart("an_app").logger.warning("odd")

    assert len(flushed(logs, pipe)) == 1


def test_removal_leaves_logging_as_it_was(pipe: Pipe) -> None:
    def state() -> list[object]:
        root = logging.getLogger()
        hooks: list[object] = [threading.excepthook, sys.unraisablehook, warnings.showwarning]
        return [*root.handlers, root.level, *hooks]

    before = state()

    start_logging(LoggingSettings(level="debug", format="json"), fd=pipe.writer).remove(
        seconds=TOO_LONG
    )

    assert state() == before
