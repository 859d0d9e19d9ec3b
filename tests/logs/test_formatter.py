"""A record becomes one line, whatever is in it; also in a program's own logging."""

import io
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.hostile_errors import HOSTILE, NoClassError, NoTextError
from tests.support import current_job_id
from trio_jobs import open_jobs
from trio_jobs.logs.formatter import MAX_LINE_BYTES, LineFormat, LogFormatter, event_record

any_text = st.text(st.characters())  # lone surrogates and control characters included
any_value = st.one_of(
    any_text, st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.lists(any_text)
)


class Color(StrEnum):
    """Text that has another repr."""

    RED = "red"


def record(event: object = "job_failed", /, **fields: object) -> logging.LogRecord:
    made = event_record("trio_jobs.pool.worker", logging.WARNING, "", fields)
    made.msg = event
    made.created = 1795593600.1234
    return made


def failure(error: BaseException) -> logging.LogRecord:
    try:
        raise error
    except type(error):
        made = record()
        made.exc_info = sys.exc_info()
        return made


def text(made: logging.LogRecord) -> str:
    return LogFormatter("text").render(made).decode()


def fields_of(made: logging.LogRecord) -> Mapping[str, object]:
    fields: dict[str, object] = json.loads(LogFormatter("json").render(made))
    for key in ("time", "level", "logger", "event"):
        del fields[key]
    return fields


def test_text_line_is_time_level_logger_event_and_fields() -> None:
    made = record(job_id="a1", duration=1.5, worker=3, outcome=Color.RED)

    assert text(made) == (
        "2026-11-25T08:00:00.123Z WARNING trio_jobs.pool.worker job_failed"
        " job_id=a1 duration=1.5 worker=3 outcome=red\n"
    )


def test_json_line_is_one_object() -> None:
    made = record(job_id="a1", duration=1.5, outcome=Color.RED, error=None)

    assert json.loads(LogFormatter("json").render(made)) == {
        "time": "2026-11-25T08:00:00.123Z",
        "level": "WARNING",
        "logger": "trio_jobs.pool.worker",
        "event": "job_failed",
        "job_id": "a1",
        "duration": 1.5,
        "outcome": "red",
        "error": None,
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain/text:1", "plain/text:1"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash", r'"back\\slash"'),
        ("line\nbreak\r", r'"line\nbreak\r"'),
        ("\x1b[31mred", r'"\x1b[31mred"'),
        ("\u2028", r'"\u2028"'),
        ("\udc80", r'"\\udc80"'),
        ("größe", "größe"),
        (True, "true"),
        (None, "null"),
        (float("nan"), "nan"),
        ([10**5000], '"<list whose repr raises>"'),
        (["x"], "\"['x']\""),
        (NoTextError(), '"<NoTextError whose repr raises>"'),
    ],
)
def test_text_value_is_quoted_when_it_must_be(value: object, shown: str) -> None:
    assert text(record(x=value)).removesuffix("\n").partition(" x=")[2] == shown


@pytest.mark.parametrize("line_format", ["text", "json"])
@given(event=any_text, fields=st.dictionaries(any_text, any_value, max_size=5))
def test_any_record_is_one_printable_line(
    line_format: LineFormat, event: str, fields: Mapping[str, object]
) -> None:
    # Names that every record has are refused by logging itself.
    odd = {f"x{key}": value for key, value in fields.items()}

    line = LogFormatter(line_format).render(record(event, **odd)).decode()

    assert line.endswith("\n")
    assert line[:-1].isprintable()


@given(value=any_text)
def test_json_keeps_every_text_that_utf_8_can_say(value: str) -> None:
    said = value.encode(errors="backslashreplace").decode()

    assert fields_of(record(x=value)) == {"x": said}


def test_traceback_stands_indented_below_its_line_or_in_the_object() -> None:
    made = failure(ValueError("forged\n2026-11-25T08:00:00.123Z INFO x done\x1b[2J\r"))

    first, *below = text(made).splitlines()

    assert first.endswith("job_failed")
    assert below[0] == "  Traceback (most recent call last):"
    assert below[-1] == r"  2026-11-25T08:00:00.123Z INFO x done\x1b[2J\r"
    assert all(line.startswith("  ") for line in below)
    assert str(fields_of(made)["exception"]).startswith("Traceback (most recent call last):\n")


@pytest.mark.parametrize("kind", HOSTILE)
def test_line_about_any_error_is_made_and_bounded(kind: str) -> None:
    make, _, _ = HOSTILE[kind]

    shown = text(failure(make()))

    assert "WARNING" in shown
    assert len(shown) <= MAX_LINE_BYTES


def test_value_that_does_not_say_what_it_is_is_shown_by_its_type() -> None:
    assert fields_of(record(x=NoClassError("x"))) == {"x": "<NoClassError whose repr raises>"}


def test_message_that_cannot_be_made_is_shown_in_its_parts() -> None:
    unfit = record("%s and %s")
    unfit.args = (1,)

    assert text(unfit).endswith("%s and %s (1,)\n")
    assert text(record(NoTextError())).endswith("<NoTextError whose repr raises> ()\n")


def test_field_with_a_name_of_ours_gets_an_underscore() -> None:
    assert fields_of(record(event=1, time=2, level=3)) == {"event_": 1, "time_": 2, "level_": 3}


def test_line_carries_the_job_being_processed() -> None:
    token = current_job_id.set("a1")
    try:
        by_context, by_field = fields_of(record()), fields_of(record(job_id="b2"))
    finally:
        current_job_id.reset(token)

    assert by_context == {"job_id": "a1"}
    assert by_field == {"job_id": "b2"}
    assert fields_of(record()) == {}


@pytest.mark.parametrize("line_format", ["text", "json"])
@pytest.mark.parametrize(
    "made",
    [
        record("x" * 10**6),
        record(x="\x00" * 10**6),
        record(**{f"key{n}" * 100: "\U0001f600" * 5000 for n in range(100)}),
        record(**{f"key{n}": n for n in range(10_000)}),
        failure(ValueError("\udc80" * 10**6)),
    ],
    ids=["event", "control characters", "keys", "fields", "exception"],
)
def test_line_is_bounded(line_format: LineFormat, made: logging.LogRecord) -> None:
    line = LogFormatter(line_format).render(made)

    assert len(line) <= MAX_LINE_BYTES
    assert b"WARNING" in line


def test_long_text_keeps_its_beginning_and_its_end() -> None:
    value = str(fields_of(record(x="begin" + "x" * 5000 + "end"))["x"])

    assert value.startswith("begin")
    assert value.endswith("end")
    assert "[3008 characters]" in value


# In the logging that a program has set up


@contextmanager
def logging_with(formatter: LogFormatter) -> Iterator[io.StringIO]:
    """A log handler with this formatter on the root; what it has written."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(formatter)
    logging.getLogger().addHandler(handler)
    yield handler.stream
    logging.getLogger().removeHandler(handler)


async def fail(_payload: object) -> None:
    logging.getLogger("shop").warning("asked", extra={"whom": "nobody"})
    raise ValueError("no such address")


async def test_what_is_unfinished_is_named_in_the_log_of_a_program(
    autojump_clock: MockClock,
) -> None:
    with logging_with(LogFormatter()) as log, trio.move_on_after(1):
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


async def test_lines_say_which_job_they_are_about() -> None:
    with logging_with(LogFormatter("json")) as log:
        async with open_jobs({"fail": fail}) as jobs:
            job = jobs.submit("fail")
            await jobs.wait(job.id)

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [(line["event"], line["job_id"]) for line in lines[:2]] == [
        ("asked", job.id),
        ("handler_raised", job.id),
    ]
    assert lines[1]["exception"].endswith("ValueError: no such address\n")


def test_format_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^line_format must be one of 'text', 'json', got 'xml'$"):
        LogFormatter("xml")  # type: ignore[arg-type]
