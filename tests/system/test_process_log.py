"""What a process handler logs comes out in the server's own log."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.command import running_command
from tests.handlers import tasks
from tests.handlers.support import in_process, process
from tests.support import ProcessPool
from trio_jobs import Outcome

LOGGER = "tests.handlers.tasks"


def records_of(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == name]


async def test_a_line_has_its_level_its_fields_and_its_job(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with ProcessPool(1) as processes:
        ending = await process(in_process(tasks.log_lines), b"3", processes=processes)

    records = records_of(caplog, LOGGER)
    assert [(each.levelname, each.getMessage()) for each in records] == [
        ("INFO", "line 0 of 3"),
        ("INFO", "line 1 of 3"),
        ("INFO", "line 2 of 3"),
    ]
    fields = vars(records[0])
    assert (fields["job_id"], fields["number"], fields["odd"]) == ("a", 0, "[1, (2,)]")
    assert str(fields["process"]).encode() == ending.result
    assert (fields["funcName"], Path(fields["pathname"]).name) == ("log_lines", "tasks.py")


async def test_lines_below_the_logs_level_do_not_cross(caplog: pytest.LogCaptureFixture) -> None:
    async with ProcessPool(1) as processes:
        await process(in_process(tasks.log_lines), b"3", processes=processes)

    assert not records_of(caplog, LOGGER)


async def test_a_logged_exception_has_the_childs_traceback(
    processes: ProcessPool, caplog: pytest.LogCaptureFixture
) -> None:
    await process(in_process(tasks.log_an_exception), processes=processes)

    [record] = records_of(caplog, LOGGER)
    assert record.exc_text is not None
    assert "\nZeroDivisionError: division by zero" in record.exc_text


async def test_warnings_and_threads_are_logged_as_well(
    processes: ProcessPool, caplog: pytest.LogCaptureFixture
) -> None:
    await process(in_process(tasks.warn_and_fail_in_a_thread), processes=processes)

    [warning] = records_of(caplog, "py.warnings")
    [failed] = records_of(caplog, "trio_jobs.child_process")
    assert "careful" in warning.message
    assert (failed.message, vars(failed)["job_id"]) == ("thread_failed", "a")
    assert failed.exc_text is not None
    assert failed.exc_text.endswith("ValueError: in a thread\n")


async def test_many_large_lines_are_whole_and_other_tasks_get_their_turn(
    processes: ProcessPool, caplog: pytest.LogCaptureFixture
) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        await process(in_process(tasks.log_from_threads), b"500", processes=processes)
        nursery.cancel_scope.cancel()

    texts = [record.getMessage() for record in records_of(caplog, LOGGER)]
    assert len(texts) == 2000
    assert {len(text) for text in texts} == {1000}
    assert turns > 2000 / 16


async def test_a_copy_writes_its_lines_to_standard_error(
    processes: ProcessPool, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    await process(in_process(tasks.log_in_a_copy), processes=processes)

    assert not records_of(caplog, LOGGER)
    assert "WARNING tests.handlers.tasks from the copy job_id=a\n" in capfd.readouterr().err


async def test_what_is_logged_as_a_process_ends_is_not_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with ProcessPool(1) as processes:
        await process(in_process(tasks.log_at_exit), processes=processes)

    assert [each.message for each in records_of(caplog, LOGGER)] == ["at exit"]


async def test_a_traceback_begins_with_the_users_code(
    processes: ProcessPool, caplog: pytest.LogCaptureFixture
) -> None:
    await process(in_process(tasks.shout), processes=processes)

    [record] = records_of(caplog, "trio_jobs.handlers.executor")
    assert record.exc_text is not None
    first, second, *_ = record.exc_text.splitlines()
    assert first == "Traceback (most recent call last):"
    assert second.endswith(", in shout")


TAKES_ITS_LOG_APART = """
import datetime
import logging
import os

log = logging.getLogger("shop")
log.setLevel("INFO")


class AddsField(logging.Filter):
    def filter(self, record):
        record.minutes = record.took.total_seconds() / 60
        record.filtered_by = os.getpid()
        return True


class Shows(logging.Handler):
    def emit(self, record):
        assert record.took.total_seconds()
        os.write(2, f"handled by {os.getpid()}\\n".encode())


class Record(logging.LogRecord):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.made_by = os.getpid()


log.addFilter(AddsField())
log.addHandler(Shows())
logging.setLogRecordFactory(Record)
logging.LogRecord = Record


def work(payload):
    log.info("sent", extra={"took": datetime.timedelta(minutes=3)})
    return os.getpid()
"""


async def test_filters_handlers_and_factories_of_a_module_run_in_its_process_alone(
    tmp_path: Path,
) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=TAKES_ITS_LOG_APART) as server:
        job = await server.run("pack")
        child = job["result"]
        sent = json.loads(await server.wait_for_line('"sent"'))
        handled = server.lines_with("handled by")

    assert job["outcome"] == "succeeded"
    assert sent["took"] == "datetime.timedelta(seconds=180)"
    assert (sent["minutes"], sent["filtered_by"], sent["made_by"]) == (3.0, child, child)
    assert handled == [f"handled by {child}"]


class Breaks(logging.Filter):
    """A filter of the program's own, on the way of every line."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise KeyboardInterrupt


@pytest.mark.parametrize("function", [tasks.log_lines, tasks.shout])
async def test_no_job_ends_otherwise_because_of_its_log(
    function: Callable[..., object], processes: ProcessPool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broken = Breaks()
    caplog.handler.addFilter(broken)
    try:
        ending = await process(in_process(function), b"3", processes=processes)
    finally:
        caplog.handler.removeFilter(broken)

    told = ending.error and ending.error.message
    assert (ending.outcome is Outcome.SUCCEEDED) or told == "loud"


CONFIG = """
[pool]
processes = 1
[logging]
format = "json"
[handlers.pack]
call = "work:work"
run = "process"
"""
