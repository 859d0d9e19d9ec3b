"""Chunks: their keys, their payloads, and the answers of their records."""

import json

import pytest

from trio_jobs.commands.run.chunks import block_of, make_chunk, split_answer
from trio_jobs.commands.run.records import Record

RECORDS = [Record(number, "t", b'{"n":%d}' % number) for number in (4, 5, 7)]
CHUNK = make_chunk(RECORDS, "run:")


def answers(given: str) -> list[tuple[int, dict[str, object], str]]:
    return [
        (record.number, json.loads(b"{" + members), outcome)
        for record, members, outcome in split_answer(CHUNK, given.encode())
    ]


def test_chunk_is_a_list_of_the_payloads() -> None:
    assert json.loads(CHUNK.to_json()) == {"type": "t", "payload": [{"n": 4}, {"n": 5}, {"n": 7}]}
    assert CHUNK.is_chunk


def test_key_tells_which_records_are_in_the_chunk() -> None:
    assert make_chunk(RECORDS, "run:").key == CHUNK.key
    assert make_chunk(RECORDS[:2], "run:").key != CHUNK.key
    assert CHUNK.key.startswith("run:4+")
    assert len(CHUNK.key) < 100


def test_blocks_begin_at_fixed_lines() -> None:
    assert [block_of(number, 3) for number in (1, 3, 4, 6, 7)] == [0, 0, 1, 1, 2]


def test_each_record_gets_its_result() -> None:
    assert answers('"key":"k","id":"01","outcome":"succeeded","result":[1, {"a": [2]},null]}') == [
        (4, {"id": "01", "outcome": "succeeded", "result": 1}, "succeeded"),
        (5, {"id": "01", "outcome": "succeeded", "result": {"a": [2]}}, "succeeded"),
        (7, {"id": "01", "outcome": "succeeded", "result": None}, "succeeded"),
    ]


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        ('"id":"01","outcome":"failed","error":{"type":"E","message":"m"}}', "failed"),
        ('"id":"01","outcome":"timed_out","error":{"type":"E","message":"m"}}', "timed_out"),
        ('"outcome":"refused","error":{"type":"E","message":"m"}}', "refused"),
    ],
)
def test_records_of_a_chunk_without_success_have_its_outcome(given: str, outcome: str) -> None:
    expected = json.loads("{" + given)

    assert answers(given) == [(number, expected, outcome) for number in (4, 5, 7)]


def test_cancelled_chunk_has_no_error() -> None:
    assert answers('"id":"01","outcome":"cancelled"}')[0] == (
        4,
        {"id": "01", "outcome": "cancelled", "error": None},
        "cancelled",
    )


@pytest.mark.parametrize(
    ("result", "found"),
    [("[1,2]", "a list of 2"), ("[]", "a list of 0"), ('{"a":1}', "no list"), ("null", "no list")],
)
def test_result_that_is_no_list_of_the_length_fails_each_record(result: str, found: str) -> None:
    message = f"the handler must return a list of 3 results, got {found}"
    error = {"type": "ChunkError", "message": message}

    got = answers(f'"id":"01","outcome":"succeeded","result":{result}}}')

    expected = {"id": "01", "outcome": "failed", "error": error}
    assert got == [(number, expected, "failed") for number in (4, 5, 7)]
