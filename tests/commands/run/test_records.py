"""Lines of the input: what is a record, and what is refused."""

import json

import pytest

from trio_jobs.commands.run import records
from trio_jobs.commands.run.records import BadLineError, Submission, parse_record


def test_line_is_the_payload_if_the_type_is_given() -> None:
    record = parse_record(b' {"file": "a.jpg"}\r', 3, "resize")

    assert (record.number, record.type, record.payload) == (3, "resize", b'{"file": "a.jpg"}')


def test_line_names_type_and_payload_otherwise() -> None:
    record = parse_record('{"payload":"ä","type":"mail"}'.encode(), 1, None)

    assert (record.type, record.payload) == ("mail", '"ä"'.encode())
    assert parse_record(b'{"type":"mail"}', 1, None).payload == b"null"


def test_line_of_a_failures_file_is_a_record() -> None:
    failure = {"line": 7, "key": "r:7", "id": "01", "outcome": "failed", "replayed": True}
    failure |= {"error": {"type": "E", "message": "no"}, "retry_after": 3}

    record = parse_record(json.dumps(failure | {"type": "t", "payload": [1]}).encode(), 2, None)

    assert (record.number, record.type, record.payload) == (2, "t", b"[1]")


@pytest.mark.parametrize(
    ("line", "job_type", "why"),
    [
        (b"{", "t", "not valid JSON"),
        (b'1,"delay":5', "t", "not valid JSON"),  # no member of the submission comes from a payload
        (b"1} {", "t", "not valid JSON"),
        (b'"\xff"', "t", "not valid JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "t", "nested too deep"),
        (b'{"payload":1}', None, "missing required field type"),
        (b'{"type":"t","paylaod":1}', None, "unknown field paylaod"),
        (b'{"type":7}', None, "expected str"),
        (b"7", None, "expected object"),
    ],
)
def test_bad_line_is_refused_with_the_reason(line: bytes, job_type: str | None, why: str) -> None:
    with pytest.raises(BadLineError, match=f"(?i){why}"):
        parse_record(line, 1, job_type)


def test_too_long_line_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_LINE", 5)

    assert parse_record(b" 12345\n", 1, "t").payload == b"12345"
    with pytest.raises(BadLineError, match="longer than 5 bytes"):
        parse_record(b"123456", 1, "t")


def test_submission_is_a_line_of_the_pipe() -> None:
    record = parse_record(b"[1, 2]", 1, 'a"b')

    line = Submission((record,), record.type, record.payload, "k").to_json()

    assert json.loads(line) == {"type": 'a"b', "payload": [1, 2]}
