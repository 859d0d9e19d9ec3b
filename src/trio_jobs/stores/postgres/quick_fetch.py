"""A round that only fetches, as an idle server makes it when it hears of a job.

In the database's function `round` it is several statements: after a rest, each of them costs more
than what it does. Here it is one, prepared, whose rows are read while the database flushes it.
"""

from collections.abc import Sequence
from typing import Any, Final

from trio_jobs.stores.postgres.parameter_arrays import Texts
from trio_jobs.stores.postgres.round import Batch, RoundResult
from trio_jobs.stores.postgres.round_calls import result_of
from trio_jobs.stores.postgres.session import Session
from trio_jobs.stores.postgres.trio_connection import TrioConnection

_NAME: Final = "trio_jobs_fetch"
_FORMATS: Final = (0, 0, 0, 0, 0, 1, 1)

_WANTED: Final = "coalesce(j.type = any ($6), true) and j.type <> all ($7)"
_MAY_RUN: Final = f"(j.cancel_requested or (j.interruptions = 0 and {_WANTED}))"

# It finds what `find_jobs` does in the database, in the same order. `mine` holds the member, as
# `enter` does. The last `limit` ends the search: no job is locked beyond it. The update goes by the
# id: the statement does not see a version of a row that was committed since it has begun, but comes
# to it from the one before. `now()` is when it has begun.
_FETCH: Final = f"""
    with mine as materialized (
        select from trio_jobs.members m where m.id = $1 and m.session = $2 for key share
    ), locked as materialized (
        select l.* from mine cross join lateral (
            select * from (
                select j.id, 0 as part, j.run_at from trio_jobs.jobs j
                where $5 and j.completed_at is null and j.interruptions > 0 and j.owner is null
                    and coalesce(j.run_at <= now(), true) and not j.cancel_requested and {_WANTED}
                order by j.interruptions, j.id limit 1 for update skip locked
            ) suspect
            union all
            select * from (
                select j.id, 1, j.run_at from trio_jobs.jobs j
                where j.completed_at is null and j.run_at <= now() and {_MAY_RUN}
                order by j.run_at nulls first, j.id for update skip locked
            ) due
            union all
            select * from (
                select j.id, 2, j.run_at from trio_jobs.jobs j
                where j.completed_at is null and j.run_at is null and j.owner is null and j.id > $3
                    and {_MAY_RUN}
                order by j.run_at nulls first, j.id for update skip locked
            ) pending
            limit $4
        ) l
    )
    update trio_jobs.jobs j
    set owner = $1, fetches = j.fetches + 1, attempts = j.attempts + 1, run_at = null
    from locked l where j.id = l.id
    returning 'f', j.id::text, l.part, j.fetches, j.type, j.payload::text,
        trio_jobs.micros(j.created_at), j.key, j.key_digest, j.rerun_of::text, j.submitted_by,
        j.trace, j.attempts - 1, j.interruptions, j.snoozes, trio_jobs.micros(l.run_at),
        j.error_type, j.error_message, j.cancel_requested, j.rerun_as::text, j.progress::text,
        j.lines::text
"""  # noqa: S608

# Once for each connection. The settings are those of `round`: a plan that was made while the tables
# were empty must not read all of a large one, nor sort all that is pending.
PREPARE: Final = f"""
    set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off;
    set enable_mergejoin = off; set enable_sort = off; set jit = off;
    set plan_cache_mode = force_generic_plan;
    prepare {_NAME}(bigint, int, uuid, int, boolean, text[], text[]) as {_FETCH}
"""


def suits(batch: Batch) -> bool:
    """Whether a round only fetches, and no type has a limit."""
    others = (batch.moves, batch.begun, batch.new, batch.cancels, batch.watches, batch.count_to)
    return batch.want.number > 0 and not batch.want.limits and not any(others)


def send(connection: TrioConnection, batch: Batch, session: Session, low: str) -> None:
    """Send the round; the next step on the connection must be `receive`.

    Args:
        connection: Has executed `PREPARE`.
        batch: A round that `suits`.
        session: Whose round it is.
        low: See `round_calls.call`.
    """
    want = batch.want
    params = (
        str(session.member).encode(),
        str(session.number).encode(),
        low.encode(),
        str(want.number).encode(),
        b"t" if want.suspect else b"f",
        None if want.types is None else Texts(want.types).data,
        Texts(want.without).data,
    )
    connection.send_early(_NAME, params, _FORMATS)


async def receive(connection: TrioConnection, batch: Batch, session: Session) -> RoundResult:
    """The result of the round that was sent. It does not say whether the member is there."""
    return await connection.read_early(
        lambda rows: result_of(sorted(rows, key=_order), batch, session)[0]
    )


def _order(row: Sequence[Any]) -> tuple[int, int, str]:
    # By the part of the search, the time, the id.
    return row[2], row[15] or 0, row[1]
