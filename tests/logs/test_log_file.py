"""The log's writer goes over to another file between two lines, and waits for nothing."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.logs.pipe import Pipe
from tests.support import closed
from trio_jobs.logs.installation import Logs, start_logging
from trio_jobs.logs.log_file import check_log_file, open_log_file
from trio_jobs.settings import LoggingSettings

TOO_LONG = 60

log = logging.getLogger("tests.logs")


def numbers(text: str) -> list[int]:
    return [int(line.rpartition("n=")[2]) for line in text.splitlines()]


def open_descriptors() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


def started(path: Path) -> Logs:
    fd = open_log_file(str(path))
    logs = start_logging(LoggingSettings(), fd=fd)
    os.close(fd)
    return logs


def test_lines_are_in_the_file_of_their_time_whole_and_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / f"{count}" for count in range(20)]
    logs = started(paths[0])
    before = open_descriptors()
    for count, path in enumerate(paths):
        if count:
            logs.reopen(open_log_file(str(path)))
        for n in range(250):
            log.info("line", extra={"pad": "x" * 1900, "more": "y" * 1900, "n": 250 * count + n})
        if count % 5 == 4:  # five megabytes; from eight on the log drops lines
            assert logs.flush_within(seconds=TOO_LONG)
    after = open_descriptors()
    logs.remove(seconds=TOO_LONG)

    for count, path in enumerate(paths):
        assert numbers(path.read_text()) == list(range(250 * count, 250 * (count + 1)))
    assert after == before


def test_stream_that_nobody_reads_keeps_its_lines_and_holds_up_nobody(tmp_path: Path) -> None:
    pipe = Pipe()
    pipe.fill()
    logs = start_logging(LoggingSettings(), fd=pipe.writer)
    log.info("line", extra={"n": 0})
    logs.reopen(open_log_file(str(tmp_path / "log")))
    log.info("line", extra={"n": 1})
    assert not logs.flush_within(seconds=0.1)
    first = pipe.read()
    assert logs.flush_within(seconds=TOO_LONG)
    logs.remove(seconds=TOO_LONG)
    first += pipe.read()
    pipe.close()

    assert numbers("\n".join(first)) == [0]
    assert numbers((tmp_path / "log").read_text()) == [1]


def test_log_whose_descriptor_was_closed_goes_on_in_the_new_file(tmp_path: Path) -> None:
    logs = started(tmp_path / "old")
    other = logs._fd
    with (tmp_path / "other").open("wb") as file:
        os.dup2(file.fileno(), other)  # user code has closed it, and opened something else
    log.info("lost", extra={"n": 0})
    logs.reopen(open_log_file(str(tmp_path / "new")))
    log.info("line", extra={"n": 1})
    logs.remove(seconds=TOO_LONG)
    os.close(other)

    assert numbers("\n".join((tmp_path / "new").read_text().splitlines()[:1])) == [1]
    assert (tmp_path / "other").read_text() == ""


def test_final_lines_are_in_the_new_file(tmp_path: Path) -> None:
    logs = started(tmp_path / "old")
    logs.reopen(open_log_file(str(tmp_path / "new")))
    logs.write_final("x", logging.ERROR, [("job", {"n": 1})], seconds=TOO_LONG)
    logs.remove(seconds=TOO_LONG)

    assert (tmp_path / "old").read_text() == ""
    assert numbers((tmp_path / "new").read_text()) == [1]


def test_line_that_the_old_file_took_in_part_does_not_touch_the_new_one(tmp_path: Path) -> None:
    pipe = Pipe()
    logs = start_logging(LoggingSettings(), fd=pipe.writer)
    logs._torn = True  # as after a full disk
    logs.reopen(open_log_file(str(tmp_path / "new")))
    log.info("line", extra={"n": 1})
    logs.remove(seconds=TOO_LONG)
    pipe.close()

    assert numbers((tmp_path / "new").read_text()) == [1]


def test_file_is_appended_to_and_created_for_the_server_and_its_group(tmp_path: Path) -> None:
    path = tmp_path / "log"
    before = os.umask(0o022)
    try:
        for text in (b"one\n", b"two\n"):
            fd = open_log_file(str(path))
            os.write(fd, text)
            assert not os.get_inheritable(fd)
            os.close(fd)
    finally:
        os.umask(before)

    assert path.read_text() == "one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("use", [open_log_file, check_log_file])
def test_file_in_a_folder_of_another_user_is_refused(
    tmp_path: Path, use: Callable[[str], object]
) -> None:
    with closed(tmp_path), pytest.raises(ValueError, match="log file"):
        use(str(tmp_path / "log"))


def test_what_is_no_regular_file_is_refused_and_nothing_stays_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    before = open_descriptors()
    for path in (tmp_path, tmp_path / "none" / "log", tmp_path / "fifo", "/dev/null", "/dev/full"):
        for use in (open_log_file, check_log_file):
            with pytest.raises(ValueError, match="log file"):
                use(str(path))
    assert open_descriptors() == before
    os.close(reader)
