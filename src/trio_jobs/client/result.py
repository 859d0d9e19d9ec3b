"""`Result`: how one record of `map` or `stream` ended."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from trio_jobs.client.client_errors import JobUnsuccessfulError
from trio_jobs.client.job_view import JobError

T = TypeVar("T")
U = TypeVar("U")

_decode_any: Callable[[bytes], Any] = msgspec.json.Decoder().decode


class Result(msgspec.Struct, Generic[T], frozen=True, kw_only=True, repr_omit_defaults=True):
    """How one record ended.

    Attributes:
        line: The record's number, from 1.
        outcome: ``succeeded``, ``failed``, ``timed_out``, ``cancelled`` or ``interrupted``; or
            ``refused``, then no job was made.
        id: The job's id; None if it was refused.
        key: The record's key.
        error: Why it did not succeed.
        replayed: Whether an earlier submission with this key made the job.
        json: The job's result as JSON; None if it did not succeed.
        decode: Makes the value of the JSON.
    """

    line: int
    outcome: str
    id: str | None = None
    key: str | None = None
    error: JobError | None = None
    replayed: bool = False
    json: bytes | None = None
    decode: Callable[[bytes], T] = _decode_any

    def value(self) -> T:
        """The job's result.

        Raises:
            JobUnsuccessfulError: The job did not succeed, or was refused.
            msgspec.ValidationError: The result is not of the type that the caller has named.
        """
        if self.json is None:
            raise JobUnsuccessfulError(id=self.id, outcome=self.outcome, error=self.error)
        return self.decode(self.json)

    def typed(self, decode: Callable[[bytes], U] | None) -> "Result[U]":
        """The same, with another function that makes the value; None for the one that it has."""
        if decode is None:
            return self  # type: ignore[return-value]
        return msgspec.structs.replace(self, decode=decode)  # type: ignore[arg-type]
