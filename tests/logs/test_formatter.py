"""Our lines in the logging that a program has set up."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
import trio
from trio.testing import MockClock

from trio_jobs import LogFormatter, open_jobs

AddLog = Callable[[LogFormatter], io.StringIO]


@pytest.fixture
def add_log() -> Iterator[AddLog]:
    """Adds a handler with this formatter to the root logger."""
    root = logging.getLogger()
    handlers: list[logging.Handler] = []

    def add(formatter: LogFormatter) -> io.StringIO:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        root.addHandler(handler)
        handlers.append(handler)
        return stream

    yield add
    for handler in handlers:
        root.removeHandler(handler)


async def fail(_payload: object) -> None:
    logging.getLogger("shop").warning("asked", extra={"whom": "nobody"})
    raise ValueError("no such address")


async def test_what_is_unfinished_is_named_in_the_log_of_a_program(
    add_log: AddLog, autojump_clock: MockClock
) -> None:
    log = add_log(LogFormatter())
    with trio.move_on_after(1):
        async with open_jobs({"hang": hang}, workers=1) as jobs:
            begun, waiting = jobs.submit("hang"), jobs.submit("hang")
            await trio.sleep_forever()

    lines = [line.partition(" ")[2] for line in log.getvalue().splitlines()]
    assert lines == [
        f"WARNING trio_jobs.embed jobs_interrupted job_type=hang job_ids={begun.id}",
        f"WARNING trio_jobs.embed jobs_not_started job_type=hang job_ids={waiting.id}",
    ]


async def hang(_payload: object) -> None:
    await trio.sleep_forever()


async def test_lines_say_which_job_they_are_about(add_log: AddLog) -> None:
    log = add_log(LogFormatter("json"))
    async with open_jobs({"fail": fail}) as jobs:
        job = jobs.submit("fail")
        await jobs.wait(job.id)

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [(line["event"], line["job_id"]) for line in lines[:2]] == [
        ("asked", job.id),
        ("handler_raised", job.id),
    ]
    assert lines[1]["exception"].endswith("ValueError: no such address\n")


@pytest.mark.parametrize("line_format", ["text", "json"])
def test_a_line_ends_without_its_end(line_format: Literal["text", "json"]) -> None:
    record = logging.makeLogRecord({"msg": "event\n", "levelname": "INFO", "name": "shop"})

    line = LogFormatter(line_format).format(record)

    assert "event" in line
    assert "\n" not in line


def test_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^line_format must be one of 'text', 'json', got 'xml'$"):
        LogFormatter("xml")  # type: ignore[arg-type]
