"""`Record`: one line of the input, and the job that it asks for.

A line is a payload, if the command names a type; otherwise it is ``{"type": …, "payload": …}``, and
may have the members of a failure line, too: a file of failures is an input file.
"""

import msgspec

# Bytes. A longer line is refused, and not kept in memory; few servers take one as long.
MAX_LINE = 64 * 1024 * 1024

_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_encode = msgspec.json.Encoder().encode


class Record(msgspec.Struct, frozen=True, gc=False):
    """One line of the input.

    Attributes:
        number: The line's number in the input, from 1.
        type: The job's type.
        payload: Its payload, as the JSON of the line.
    """

    number: int
    type: str
    payload: bytes


class Submission(msgspec.Struct, frozen=True, gc=False):
    """What is submitted as one job: one record, or those of a chunk.

    Attributes:
        records: The records, in the order of their lines.
        type: The job's type.
        payload: Its payload as JSON.
        key: Its idempotency key.
        is_chunk: Whether the payload is a list with the payloads of the records.
    """

    records: tuple[Record, ...]
    type: str
    payload: bytes
    key: str
    is_chunk: bool = False

    def to_json(self) -> bytes:
        """The submission as a line of the pipe, without its key."""
        return b'{"type":%b,"payload":%b}' % (_encode(self.type), self.payload)


class BadLineError(ValueError):
    """A line that asks for no job; the text says why."""


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: str
    payload: msgspec.Raw = msgspec.Raw(b"null")
    # Those of a failure line.
    line: msgspec.Raw = msgspec.Raw()
    key: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()
    outcome: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    replayed: msgspec.Raw = msgspec.Raw()
    retry_after: msgspec.Raw = msgspec.Raw()


_decode_line = msgspec.json.Decoder(_Line).decode


def parse_record(line: bytes, number: int, job_type: str | None) -> Record:
    """The record in a line that is not blank.

    Args:
        line: The line, with or without its end.
        number: Its number in the input.
        job_type: The type of all records; None if each line names its own.

    Raises:
        BadLineError: The line is no JSON in UTF-8, is longer than `MAX_LINE`, or has other members.
    """
    line = line.strip()
    if len(line) > MAX_LINE:
        raise BadLineError(f"the line is longer than {MAX_LINE} bytes")
    try:
        if not line.isascii():
            line.decode()  # msgspec takes a Raw with any bytes in its texts
        if job_type is not None:
            _check_json(line)
            return Record(number, job_type, line)
        given = _decode_line(line)
    except RecursionError:
        raise BadLineError("the JSON is nested too deep") from None
    except msgspec.ValidationError as error:
        raise BadLineError(str(error).replace("`", "")) from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise BadLineError(f"the line is not valid JSON: {error}") from None
    # A copy: a Raw would keep the whole line in memory with the record.
    return Record(number, given.type, bytes(given.payload))
