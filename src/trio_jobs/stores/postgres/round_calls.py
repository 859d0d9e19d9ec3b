"""A round as a call of the database's function `round`, and its result as the store gets it."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import psycopg

from trio_jobs.job import Job
from trio_jobs.pool.refusals import KEY_IN_USE, StoreUnavailableError
from trio_jobs.pool.store import (
    DuplicateJobError,
    InvalidTransitionError,
    JobNotFoundError,
    check_rerun,
)
from trio_jobs.stores.postgres.columns import (
    NULL,
    SELECT_WHOLE,
    error_of,
    extras_of,
    json_bytes,
    key_of,
    owned_job,
    time_of,
    whole_job,
)
from trio_jobs.stores.postgres.parameter_arrays import Texts, array, column, text_column
from trio_jobs.stores.postgres.round import Batch, Moved, NewJobs, OwnedJob, RoundResult
from trio_jobs.stores.postgres.session import Session
from trio_jobs.timestamps import time_at

# The types of the parameters, by name. Arrays have prefixes: `m_` for moves, `b_` for begun
# jobs, `i_` for new jobs, `l_` for the limits of types.
_PARAMETERS: Final = {
    "me": "bigint",
    "my_session": "int",
    "m_id": "uuid[]",
    "m_owner": "bigint[]",
    "m_fetches": "int[]",
    "m_attempts": "int[]",
    "m_snoozes": "int[]",
    "m_run_at": "timestamptz[]",
    "m_started_at": "timestamptz[]",
    "m_completed_at": "timestamptz[]",
    "m_duration": "float8[]",
    "m_outcome": "text[]",
    "m_error_type": "text[]",
    "m_error_message": "text[]",
    "m_cancel": "boolean[]",
    "m_progress": "text[]",
    "m_lines": "text[]",
    "m_result": "text[]",
    "b_id": "uuid[]",
    "b_owner": "bigint[]",
    "b_fetches": "int[]",
    "b_started_at": "timestamptz[]",
    "cancels": "uuid[]",
    "watches": "uuid[]",
    "low": "uuid",
    "want": "int",
    "wanted": "text[]",
    "without": "text[]",
    "l_type": "text[]",
    "l_left": "int[]",
    "suspect": "boolean",
    "i_id": "uuid[]",
    "i_type": "text[]",
    "i_payload": "text[]",
    "i_created_at": "timestamptz[]",
    "i_run_at": "timestamptz[]",
    "i_key": "text[]",
    "i_key_digest": "bytea[]",
    "i_submitted_by": "text[]",
    "i_trace": "text[]",
    "i_fetchable": "boolean[]",
    "count_to": "int",
}
_NEW: Final = tuple(name for name in _PARAMETERS if name.startswith("i_"))[:-1]


_TYPES: Final = {**_PARAMETERS, "i_rerun_of": "uuid[]"}


def _parameter(name: str) -> str:
    # Arrays of texts are sent in binary form. In text form each quote in a payload is escaped,
    # which costs microseconds at both ends: seconds for a payload that is full of quotes.
    form = "b" if _TYPES[name] == "text[]" else "s"
    return f"%({name}){form}::{_TYPES[name]}"


_GIVEN: Final = {name: f"{name} => {_parameter(name)}" for name in _TYPES}


def _call(function: str, names: Iterable[str], columns: str) -> str:
    given = ", ".join([_GIVEN[name] for name in names])
    return f"SELECT {columns} FROM trio_jobs.{function}({given})"  # noqa: S608


# The columns of each row of the result, and further ones of fetched jobs.
_COLUMNS: Final = "kind::text, id::text, number, fetches"
_FETCHED_COLUMNS: Final = (
    "type, payload, created_at, key, key_digest, rerun_of::text, submitted_by, trace, attempts, "
    "interruptions, snoozes, run_at, error_type, error_message, cancel_requested, rerun_as::text, "
    "progress, lines"
)
_ADD_GROUP: Final = _call(
    "add_group", ("me", "my_session", *_NEW, "i_rerun_of"), "kind::text, id::text"
)

# The jobs that a member owns, which the pump needs after a lost connection; for `owned_jobs`.
OWNED: Final = (
    f"{SELECT_WHOLE} WHERE completed_at IS NULL AND run_at IS NULL AND owner = %(member)s "
    "ORDER BY run_at NULLS FIRST, id"
)


def call(batch: Batch, session: Session, low: str) -> tuple[str, dict[str, object]]:
    """The statement of a round, and its parameters.

    It passes only the parameters that the round needs: to send and to read forty empty arrays takes
    longer than a small round itself.

    Args:
        batch: What the round does; its submissions are plain.
        session: Makes the round.
        low: Only jobs with a greater id are fetched, beside those that waited for a time.
    """
    params = _parameters(batch, session, low)
    columns = f"{_COLUMNS}, {_FETCHED_COLUMNS}" if batch.want.number else _COLUMNS
    return _call("round", params, columns), params


def _parameters(batch: Batch, session: Session, low: str) -> dict[str, object]:
    # As texts: see `parameter_arrays`.
    params: dict[str, object] = {"me": str(session.member), "my_session": str(session.number)}
    if batch.moves:
        params |= _moves(sorted(batch.moves, key=_moved_id))
    if batch.begun:
        begun = sorted(batch.begun, key=_owned_id)
        params["b_id"] = array([owned.job.id for owned in begun])
        params["b_owner"] = column(begun, lambda owned: owned.member)
        params["b_fetches"] = column(begun, lambda owned: owned.fetches)
        params["b_started_at"] = column(begun, lambda owned: owned.job.started_at)
    if batch.cancels:
        params["cancels"] = array(sorted(batch.cancels))
    if batch.watches:
        params["watches"] = array(sorted(batch.watches))
    want = batch.want
    if want.number:
        params["low"] = low
        params["want"] = str(want.number)
        params["suspect"] = str(want.suspect)
        if want.types is not None:
            params["wanted"] = text_column(want.types, _text)
        if want.without:
            params["without"] = text_column(want.without, _text)
        if want.limits:
            params["l_type"] = text_column(list(want.limits), _text)
            params["l_left"] = array(map(str, want.limits.values()))
    if batch.new:
        params |= _new_jobs([job for group in batch.new for job in group.jobs])
        params["i_fetchable"] = array([str(may) for each in batch.new for may in each.fetchable])
    if batch.count_to:
        params["count_to"] = str(batch.count_to)
    return params


def result_of(
    rows: Iterable[Sequence[Any]], batch: Batch, session: Session
) -> tuple[RoundResult, bool]:
    """What the rows of a round say.

    Args:
        rows: The rows.
        batch: What the round has done.
        session: Has made the round.

    Returns:
        The result, and whether the member of the session is there. If it is not, nothing was
        fetched.
    """
    member = session.member
    fenced: list[str] = []
    over: list[str] = []
    numbered: list[tuple[int, OwnedJob]] = []
    fetches: dict[str, int] = {}
    known: set[str] = set()
    busy: set[str] = set()
    unfinished, is_member = None, True
    # The kinds of rows: a fetched job, a new job that was fetched in the same step (taken), a
    # fenced move, a watched job that is over, a known key, a busy key, a number of unfinished jobs,
    # and a lost membership.
    for row in rows:
        kind, job_id = row[0], row[1]
        if kind == "f":
            numbered.append((row[2], OwnedJob(_fetched(row), member, row[3])))
        elif kind == "t":
            fetches[job_id] = row[3]
        elif kind == "x":
            fenced.append(job_id)
        elif kind == "o":
            over.append(job_id)
        elif kind == "k":
            known.add(job_id)
        elif kind == "b":
            busy.add(job_id)
        elif kind == "n":
            unfinished = row[2]
        elif kind == "l":
            is_member = False
    fetched = [owned for _, owned in sorted(numbered, key=_number)]
    taken = batch.new
    if refused := known | busy:
        taken = [group for group in batch.new if group.jobs[0].id not in refused]
    if fetches:
        new = (job for group in taken for job in group.jobs)
        fetched += [
            OwnedJob(job, member, count)
            for job in new
            if (count := fetches.get(job.id)) is not None
        ]
    found = RoundResult(
        fenced=fenced,
        fetched=fetched,
        taken=taken,
        busy=[group for group in batch.new if group.jobs[0].id in busy] if busy else (),
        over=over,
        unfinished=unfinished,
    )
    return found, is_member


async def add_group(
    connection: psycopg.AsyncConnection[Any], group: NewJobs, session: Session
) -> Exception | None:
    """Write submissions that are not plain; return why they are refused, or None.

    It can be repeated if its answer was lost.

    Args:
        connection: In autocommit.
        group: The submissions.
        session: Submits them.

    Raises:
        psycopg.Error: They are not written, or that is not known: the connection is lost.
    """
    jobs = group.jobs
    params = {
        "me": str(session.member),
        "my_session": str(session.number),
        **_new_jobs(jobs),
        "i_rerun_of": column(jobs, lambda job: job.rerun_of),
    }
    cursor = await connection.execute(_ADD_GROUP.encode(), params)
    for kind, job_id in await cursor.fetchall():
        if kind == "k":
            return DuplicateJobError("there is a job with one of these keys")
        if kind == "b":
            return StoreUnavailableError(KEY_IN_USE)
        return await _refused_rerun(connection, job_id)
    return None


async def _refused_rerun(connection: psycopg.AsyncConnection[Any], job_id: str) -> Exception:
    """Why a job cannot be re-run."""
    query = f"{SELECT_WHOLE} WHERE id = %s"
    cursor = await connection.execute(query.encode(), [job_id])
    if (row := await cursor.fetchone()) is None:
        return JobNotFoundError(f"no job {job_id!r}")
    try:
        check_rerun(whole_job(row))
    except InvalidTransitionError as error:
        return error
    return InvalidTransitionError(f"job {job_id!r} is re-run twice by the same submission")


def owned_jobs(rows: Iterable[Sequence[Any]]) -> list[OwnedJob]:
    """The rows of `OWNED`."""
    return [owned_job(row) for row in rows]


def _fetched(row: Sequence[Any]) -> Job:
    # In the order of `_COLUMNS` and `_FETCHED_COLUMNS`.
    _, job_id, _, _, type_, payload, created_at, key, digest, rerun_of, submitted_by = row[:11]
    trace, attempts, interruptions, snoozes, run_at, error_type, error_message = row[11:18]
    cancel_requested, rerun_as, progress, lines = row[18:]
    return Job(
        id=job_id,
        type=type_,
        payload=json_bytes(payload),
        created_at=time_at(created_at),
        cancel_requested=cancel_requested,
        key=key_of(key, digest),
        attempts=attempts,
        interruptions=interruptions,
        run_at=time_of(run_at),
        last_error=error_of(error_type, error_message),
        rerun_of=rerun_of,
        rerun_as=rerun_as,
        extras=extras_of(
            snoozes=snoozes,
            progress=progress,
            lines=lines,
            submitted_by=submitted_by,
            trace=trace,
        ),
    )


def _moves(moves: Sequence[Moved]) -> dict[str, str | Texts]:
    jobs = [move.owned.job for move in moves]
    return {
        "m_id": array([job.id for job in jobs]),
        "m_owner": column(moves, lambda move: move.owned.member),
        "m_fetches": column(moves, lambda move: move.owned.fetches),
        "m_attempts": column(jobs, lambda job: job.attempts),
        "m_snoozes": column(jobs, lambda job: job.snoozes or None),
        "m_run_at": column(jobs, lambda job: job.run_at),
        "m_started_at": column(jobs, lambda job: job.started_at),
        "m_completed_at": column(jobs, lambda job: job.completed_at),
        "m_duration": column(jobs, lambda job: job.duration),
        "m_outcome": text_column(jobs, _outcome),
        "m_error_type": text_column(jobs, _error_type),
        "m_error_message": text_column(jobs, _error_message),
        "m_cancel": column(jobs, lambda job: job.cancel_requested or None),
        "m_progress": text_column(jobs, _progress),
        "m_lines": text_column(jobs, _lines),
        "m_result": text_column(jobs, _result),
    }


def _new_jobs(jobs: Sequence[Job]) -> dict[str, str | Texts]:
    return {
        "i_id": array([job.id for job in jobs]),
        "i_type": text_column(jobs, lambda job: _text(job.type)),
        "i_payload": text_column(jobs, _payload),
        "i_created_at": column(jobs, lambda job: job.created_at),
        "i_run_at": column(jobs, lambda job: job.run_at),
        "i_key": text_column(jobs, lambda job: None if job.key is None else job.key.text),
        "i_key_digest": column(jobs, _digest),
        "i_submitted_by": text_column(jobs, lambda job: job.submitted_by),
        "i_trace": text_column(jobs, lambda job: job.trace),
    }


def _digest(job: Job) -> str | None:
    return None if job.key is None else rf"\\x{job.key.digest.hex()}"


def _payload(job: Job) -> str | None:
    return None if job.payload == NULL else job.payload.decode()


def _result(job: Job) -> str | None:
    result = None if job.ending is None else job.ending.result
    return None if result is None or result == NULL else result.decode()


def _outcome(job: Job) -> str | None:
    return None if job.ending is None else job.ending.outcome.value


def _error_type(job: Job) -> str | None:
    error = job.last_error if job.ending is None else job.ending.error
    return None if error is None else _text(error.type)


def _error_message(job: Job) -> str | None:
    error = job.last_error if job.ending is None else job.ending.error
    return None if error is None else _text(error.message)


def _progress(job: Job) -> str | None:
    return None if job.progress is None else msgspec.json.encode(job.progress).decode()


def _lines(job: Job) -> str | None:
    return msgspec.json.encode(job.lines).decode() if job.lines else None


def _text(text: str) -> str:
    """The text, with marks for what the database cannot hold: lone surrogates and NUL."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _moved_id(move: Moved) -> str:
    return move.owned.job.id


def _owned_id(owned: OwnedJob) -> str:
    return owned.job.id


def _number(pair: tuple[int, OwnedJob]) -> int:
    return pair[0]
