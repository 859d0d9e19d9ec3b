"""Chunks: several records as one job, and its answer as one line for each of them."""

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from trio_jobs.commands.run.records import Record, Submission


class _Answer(msgspec.Struct, gc=False):
    outcome: str
    id: str | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Answer).decode
_decode_results = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


def block_of(number: int, size: int) -> int:
    """In which block of the input a line is. The records of a chunk are of one block.

    Blocks begin at fixed lines: so a run that goes on makes the same chunks, with the same keys.
    """
    return (number - 1) // size


def make_chunk(records: Sequence[Record], key: str) -> Submission:
    """One job of these records, which have the same type.

    Args:
        records: At least one.
        key: The beginning of its key.
    """
    numbers = ",".join(str(record.number) for record in records).encode()
    return Submission(
        records=tuple(records),
        type=records[0].type,
        payload=b"[" + b",".join([record.payload for record in records]) + b"]",
        key=f"{key}{records[0].number}+{hashlib.sha256(numbers).hexdigest()[:12]}",
        is_chunk=True,
    )


def split_answer(submission: Submission, answer: bytes) -> Iterator[tuple[Record, bytes, str]]:
    """The answers of a chunk's records.

    If the handler has not returned a list with a result for each, all of them have failed.

    Args:
        submission: The chunk.
        answer: The members of its answer, without the line's number; it has an outcome.

    Yields:
        A record, the members of its answer, and its outcome.
    """
    given = _decode(b"{" + answer)
    head = b"" if given.id is None else b'"id":%b,' % _encode(given.id)
    outcome, end = given.outcome, b',"error":%b}' % bytes(given.error or b"null")
    if outcome == "succeeded":
        wanted = len(submission.records)
        try:
            results = _decode_results(given.result)
        except msgspec.DecodeError:
            results = None
        if results is not None and len(results) == wanted:
            for record, result in zip(submission.records, results, strict=True):
                yield record, b'%b"outcome":"succeeded","result":%b}' % (head, result), outcome
            return
        found = "no list" if results is None else f"a list of {len(results)}"
        message = f"the handler must return a list of {wanted} results, got {found}"
        error = {"type": "ChunkError", "message": message}
        outcome, end = "failed", b',"error":%b}' % _encode(error)
    for record in submission.records:
        yield record, b'%b"outcome":%b%b' % (head, _encode(outcome), end), outcome
