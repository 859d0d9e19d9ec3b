"""The fetch of one job, of which an idle server has been told.

A round is several statements in the database, which look for all jobs that there may be: after a
rest, each of them costs more than what it does. This is one, prepared, which looks up one id, and
whose row is read while the database flushes its commit.
"""

from typing import Final

from trio_jobs.stores.postgres.parameter_arrays import Texts
from trio_jobs.stores.postgres.round import Batch, RoundResult
from trio_jobs.stores.postgres.round_calls import result_of
from trio_jobs.stores.postgres.session import Session
from trio_jobs.stores.postgres.trio_connection import TrioConnection

_NAME: Final = "trio_jobs_fetch"
_FORMATS: Final = (0, 0, 0, 1, 1)

# First it holds the member, as `enter` does in the database. A job that was interrupted is left to
# a round, which fetches one such job at a time.
_FETCH: Final = """
    update trio_jobs.jobs j
    set owner = $1, fetches = j.fetches + 1, attempts = j.attempts + 1
    where j.id = (
        select j.id from trio_jobs.jobs j
        where (
                select true from trio_jobs.members m where m.id = $1 and m.session = $2
                for key share
            )
            and j.id = $3 and j.completed_at is null and j.owner is null and j.run_at is null
            and j.interruptions = 0
            and coalesce(j.type = any ($4), true) and j.type <> all ($5)
        for update skip locked
    )
    returning 'f', j.id::text, 1, j.fetches, j.type, j.payload::text,
        trio_jobs.micros(j.created_at), j.key, j.key_digest, j.rerun_of::text, j.submitted_by,
        j.trace, j.attempts - 1, j.interruptions, j.snoozes, null::bigint, j.error_type,
        j.error_message, j.cancel_requested, j.rerun_as::text, j.progress::text, j.lines::text
"""

# Once for each connection. The settings are those of `round`: a plan that was made while the tables
# were empty must not read all of a large one.
PREPARE: Final = f"""
    set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off;
    set enable_mergejoin = off; set enable_sort = off; set jit = off;
    set plan_cache_mode = force_generic_plan;
    prepare {_NAME}(bigint, int, uuid, text[], text[]) as {_FETCH}
"""


def suits(connection: TrioConnection, batch: Batch) -> bool:
    """Whether the connection can send it, and the round only fetches, and no type has a limit."""
    others = (batch.moves, batch.begun, batch.new, batch.cancels, batch.watches, batch.count_to)
    only_fetches = batch.want.number > 0 and not batch.want.limits and not any(others)
    return only_fetches and connection.can_send_early


def send(connection: TrioConnection, batch: Batch, session: Session, job_id: str) -> None:
    """Send the fetch; the next step on the connection must be `receive`.

    Args:
        connection: Has executed `PREPARE`.
        batch: A round that `suits`.
        session: Whose round it is.
        job_id: The job.
    """
    want = batch.want
    params = (
        str(session.member).encode(),
        str(session.number).encode(),
        job_id.encode(),
        None if want.types is None else Texts(want.types).data,
        Texts(want.without).data,
    )
    connection.send_early(_NAME, params, _FORMATS)


async def receive(connection: TrioConnection, batch: Batch, session: Session) -> RoundResult:
    """The result of the fetch: without the job if it is not wanted, or another server has it.

    It does not say whether the member is there.
    """
    return await connection.read_early(lambda rows: result_of(rows, batch, session)[0])
