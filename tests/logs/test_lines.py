"""A record becomes one line, whatever is in it."""

import json
import logging
import sys
from collections.abc import Mapping
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hostile_errors import HOSTILE, NoClassError, NoTextError
from trio_jobs.current_job import current_job_id
from trio_jobs.logs.formatter import MAX_LINE_BYTES, LineFormat, LogFormatter, event_record

any_text = st.text(st.characters())  # lone surrogates and control characters included
any_value = st.one_of(
    any_text, st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.lists(any_text)
)


class Color(StrEnum):
    """Text that has another repr."""

    RED = "red"


class Gone:
    """What raises more than an `Exception`."""

    def __repr__(self) -> str:
        raise SystemExit("no repr")


class Broken:
    """What a log meets when it is needed most."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


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
        (Broken(), '"<Broken whose repr raises>"'),
        (Gone(), '"<Gone whose repr raises>"'),
    ],
)
def test_text_value_is_quoted_when_it_must_be(value: object, shown: str) -> None:
    assert text(record(x=value)).removesuffix("\n").partition(" x=")[2] == shown


def test_value_that_does_not_say_what_it_is_is_shown_by_its_type() -> None:
    assert fields_of(record(x=NoClassError("x"))) == {"x": "<NoClassError whose repr raises>"}


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


def test_traceback_stands_indented_below_its_line() -> None:
    made = failure(ValueError("forged\n2026-11-25T08:00:00.123Z INFO x done\x1b[2J\r"))

    first, *below = text(made).splitlines()

    assert first.endswith("job_failed")
    assert below[0] == "  Traceback (most recent call last):"
    assert below[-1] == r"  2026-11-25T08:00:00.123Z INFO x done\x1b[2J\r"
    assert all(line.startswith("  ") for line in below)


def test_json_has_the_traceback_as_a_text() -> None:
    exception = str(fields_of(failure(ValueError("no")))["exception"])

    assert exception.endswith("\nValueError: no\n")


def test_exception_whose_text_raises_is_logged() -> None:
    class Mute(Exception):  # noqa: N818 - not an error of ours
        def __str__(self) -> str:
            raise RuntimeError

    assert "Mute: <exception str() failed>" in text(failure(Mute()))


@pytest.mark.parametrize("kind", HOSTILE)
def test_line_about_any_error_is_made_and_bounded(kind: str) -> None:
    make, _, _ = HOSTILE[kind]

    shown = text(failure(make()))

    assert "WARNING" in shown
    assert len(shown) <= MAX_LINE_BYTES


def test_message_that_raises_is_shown_by_its_repr() -> None:
    made = record(NoTextError())

    assert (
        json.loads(LogFormatter("json").render(made))["event"]
        == "<NoTextError whose repr raises> ()"
    )


def test_message_that_does_not_fit_its_arguments_is_shown_with_them() -> None:
    made = record("%s and %s")
    made.args = (1,)

    assert " %s and %s (1,)" in text(made)


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
