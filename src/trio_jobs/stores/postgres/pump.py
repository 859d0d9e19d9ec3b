"""`Pump`: the one task that writes jobs to the database, over one connection, in rounds.

While a round is under way, the next one fills. So nothing waits for a timer, and the number of
connections does not depend on that of the workers.

A round whose connection is lost may have been committed, and may even be committed later: the
database may still work on it, or not have begun. Before the pump repeats it, it begins a *session*
of its member, which waits for the rounds of the earlier session and refuses those that come late.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import psycopg
import trio

from trio_jobs.pool.refusals import AnswerLostError, StoreUnavailableError, StoreWriteError
from trio_jobs.pool.want import NOTHING
from trio_jobs.stores.postgres import quick_fetch, round_calls
from trio_jobs.stores.postgres.database_health import REQUEST, DatabaseHealth, written_parts
from trio_jobs.stores.postgres.failures import (
    READ_ONLY,
    ends_connection,
    is_passing,
    one_line,
    refuses,
)
from trio_jobs.stores.postgres.fetch_position import FetchPosition
from trio_jobs.stores.postgres.membership import Membership
from trio_jobs.stores.postgres.round import (
    Batch,
    NewJobs,
    OwnedJob,
    RoundResult,
    RoundSource,
    sum_of,
)
from trio_jobs.stores.postgres.session import Session
from trio_jobs.stores.postgres.trio_connection import TrioConnection, pause_before

_Result = TypeVar("_Result")

# Seconds after which the pump gives up a connection that does not answer: otherwise a frozen
# database holds the pump for ever. The time doubles at each failure in a row, up to the longest: a
# lock on the table may hold the statement, and each connection given up still waits for that lock.
_PATIENCE: Final = 30.0
_LONGEST_PATIENCE: Final = 960.0

# What a round raises that belongs to an earlier session of its member.
_STALE: Final = "TJ001"

# Waits for all rounds of earlier sessions: each holds `for key share` on the row.
_BEGIN_SESSION: Final = """
    with mine as materialized (select id from trio_jobs.members where id = %(member)s for update)
    update trio_jobs.members m set session = session + 1 from mine where m.id = mine.id
    returning m.session
"""

_SESSION: Final = "select session from trio_jobs.members where id = %(member)s"


@dataclass(slots=True, eq=False)
class _Request:
    """A statement of a client, and what has come of it."""

    sql: str
    params: Mapping[str, object]
    over: trio.Event = field(default_factory=trio.Event)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    error: Exception | None = None
    is_in_doubt: bool = False  # whether it may have been carried out

    def end(self, error: Exception | None = None) -> None:
        self.error = error
        self.over.set()

    def refuse(self, error: psycopg.Error) -> None:
        self.end((AnswerLostError if self.is_in_doubt else StoreWriteError)(one_line(error)))


class _SessionOverError(Exception):
    """The present session has ended: another one has to begin."""


class Pump:
    """Writes what a source has ready, as long as it runs.

    Args:
        connect: Makes a connection, in autocommit.
        source: Has the rounds.
        membership: Under which jobs are fetched; while its `id` is 0 the pump only writes.
        timeout: Seconds after which the pump counts as hanging; see `hangs`.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[TrioConnection]],
        source: RoundSource,
        membership: Membership,
        *,
        timeout: float,
    ) -> None:
        self._connect = connect
        self._source = source
        self._membership = membership
        self._health = DatabaseHealth(timeout)
        self._wake = trio.Event()
        self._closing = False
        self._ended = trio.Event()
        self._requests: deque[_Request] = deque()
        # The round that the source has handed out, until it is committed. If `_in_doubt`, it was
        # sent under the membership `_sent_by`, and the database may have committed it, or a part of
        # it.
        self._round: Batch | None = None
        self._in_doubt = False
        self._partly_there = False  # whether a part of the present attempt is committed
        self._sent_by = 0
        self._position = FetchPosition()
        self._idle: tuple[TrioConnection, Session] | None = None  # while `run` waits for `_wake`
        self._is_sent = False  # whether a hint has sent the round: its answer is to be read
        self._failures = 0  # since the last round
        self._patience = _PATIENCE

    # For the store and the listener: plain, except for `request`.

    def wake(self) -> None:
        """Make a round if the source has something."""
        self._wake.set()

    def hint(self, first_id: str | None) -> None:
        """Look for jobs to fetch: there are some that the last fetch has not seen or not wanted.

        Args:
            first_id: The smallest of their ids; None if it is not known.
        """
        self._position.hint(first_id)
        self._wake.set()

    def hint_new(self, job_id: str) -> None:
        """Fetch this new job.

        If the pump is idle, and looks for no others, it asks the source for a round, and sends the
        fetch before this method returns: the job waits for that.
        """
        is_all = not self._position.may_find
        self._position.hint(job_id)
        if is_all and self._idle is not None and not self._wake.is_set():
            self._fetch_at_once(*self._idle, job_id)
        self._wake.set()

    def hint_due(self) -> None:
        """Look for jobs to fetch: some have waited for a time, which has come."""
        self._position.may_find = True
        self._wake.set()

    def _fetch_at_once(self, connection: TrioConnection, session: Session, job_id: str) -> None:
        """Take a round, and send it if it only fetches; `run` goes on with it."""
        if connection.closed or session.member != self._membership.id:
            return
        self._take()
        if self._round is None or not quick_fetch.suits(connection, self._round):
            return
        self._is_sent = True
        try:
            quick_fetch.send(connection, self._round, session, job_id)
        except psycopg.Error:
            connection.finish()  # as if it was lost behind the statement: `run` hears of that

    async def request(self, sql: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Execute one statement between two rounds.

        It is executed at least once: again if the connection is lost meanwhile.

        Returns:
            Its rows, when it is committed.

        Raises:
            StoreUnavailableError: The pump has ended.
            StoreWriteError: The database refuses to write; nothing has changed.
            AnswerLostError: It refuses, and may have executed the statement before.
            psycopg.Error: The statement cannot be executed; nothing has changed.

        Cancellation:
            The statement is executed all the same.
        """
        if self._ended.is_set():
            raise StoreUnavailableError("the server has left the database")
        request = _Request(sql, params)
        self._requests.append(request)
        self._wake.set()
        await request.over.wait()
        if request.error is not None:
            raise request.error
        return request.rows

    @property
    def hangs(self) -> bool:
        """See `DatabaseHealth.hangs`."""
        return self._health.hangs

    @property
    def failing(self) -> float | None:
        """See `DatabaseHealth.failing`."""
        return self._health.failing

    async def close(self, seconds: float) -> bool:
        """Write the rest, and end `run`; nothing is fetched from now on.

        Args:
            seconds: How long to wait for the database at the most.

        Returns:
            Whether all is written.
        """
        self._closing = True
        self._wake.set()
        with trio.move_on_after(seconds):
            await self._ended.wait()
        return self._ended.is_set()

    # The task.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make rounds until `close`. Counts as started once the first connection is made.

        Raises:
            psycopg.Error: The first connection cannot be made.

        Cancellation:
            A round that is under way may be committed; its callbacks are not called.
        """
        connection = await self._connect()
        task_status.started()
        while not await self._use(connection):
            connection = await self._reconnect()
        self._ended.set()

    async def _reconnect(self) -> TrioConnection:
        while True:
            await self._pause()
            try:
                return await self._connect()
            except psycopg.Error as error:
                self._health.lost(error)

    async def _use(self, connection: TrioConnection) -> bool:
        """Make rounds over a connection until it is lost; whether all is written, at the end."""
        try:
            if connection.can_send_early:
                await self._await_answer(connection.execute(quick_fetch.PREPARE.encode()))
            while True:  # noqa: ASYNC913 - each turn has a statement, or a checkpoint before a round
                try:
                    session = await self._begin_session(connection)
                    await self._make_rounds(connection, session)
                except _SessionOverError:
                    continue
                return True
        except psycopg.Error as error:
            if not ends_connection(error, connection):
                raise
            if refuses(error):
                self._refuse_waiting(error)
            else:
                self._health.lost(error)
            return False
        finally:
            connection.finish()

    async def _begin_session(self, connection: TrioConnection) -> Session:
        """Fence off the rounds of earlier connections, and settle the one that is in doubt."""
        session = Session(0, 0)
        while member := self._membership.id:
            if rows := await self._execute(connection, _BEGIN_SESSION, {"member": member}):
                session = Session(member, rows[0][0])
                self._health.wrote()
                break
            self._membership.lost()  # a sweep has deleted it
        self._position.restart()
        if self._round is not None and self._in_doubt:
            await self._repeat(connection, session, self._round)
        return session

    async def _repeat(self, connection: TrioConnection, session: Session, batch: Batch) -> None:
        """Make a round again that was sent, and may have been committed.

        Its first attempt fetched the jobs that this member owns in the database without knowing
        them.
        """
        fetched: Sequence[OwnedJob] = ()
        if session.member == self._sent_by:
            known = self._source.owned(session.member)
            # The database says again which of them it has fetched with their submissions.
            plain = (each for each in batch.new if each.is_plain)
            known |= {(job.id, 1) for each in plain for job in each.jobs}
            found = round_calls.owned_jobs(
                await self._execute(connection, round_calls.OWNED, {"member": session.member})
            )
            fetched = [each for each in found if (each.job.id, each.fetches) not in known]
        await self._make_round(connection, session, fetched)

    async def _make_rounds(self, connection: TrioConnection, session: Session) -> None:
        """Make rounds until the pump is closed, and all is written."""
        while True:  # noqa: ASYNC913 - each turn has a statement, or waits
            if self._round is None:
                await _let_others_join()
                self._wake = trio.Event()  # set by all that happens from now on
            if not self._is_sent:
                await self._carry_out_requests(connection)
                if session.member != self._membership.id:
                    raise _SessionOverError
            if self._round is None:
                self._take()
            if self._round is not None:
                await self._make_round(connection, session)
            elif self._closing:
                return
            else:
                self._health.answered()
                self._idle = connection, session
                await self._wake.wait()
                self._idle = None

    def _take(self) -> None:
        """Take a round from the source, if it has one; later hints are for the next."""
        may_fetch = self._position.may_find and not self._closing
        self._round = self._source.take(may_fetch=may_fetch)
        if self._round is not None:
            self._position.round_begins(self._round.want)

    async def _make_round(
        self,
        connection: TrioConnection,
        session: Session,
        fetched: Sequence[OwnedJob] = (),
    ) -> None:
        """Make the round.

        Args:
            connection: Where.
            session: The session.
            fetched: What the first attempt fetched; empty without one.
        """
        assert self._round is not None  # noqa: S101  (for the type checker)
        batch = self._round
        is_repeated, self._in_doubt, self._sent_by = self._in_doubt, True, session.member
        self._partly_there = False
        if is_repeated:
            batch = batch._replace(want=NOTHING)
        try:
            result = await self._send(connection, session, batch)
        except psycopg.Error as error:
            if connection.closed:
                raise
            failure = error
        else:
            self._in_doubt = False
            if batch.new:
                batch = batch._replace(new=self._round.new)  # without those that were refused
            if fetched:
                result = replace(result, fetched=[*fetched, *result.fetched])
            self._round = None
            self._failures = 0
            self._health.writes.works()
            self._health.wrote(*written_parts(batch))
            self._land(session, batch, result)
            return
        self._in_doubt = is_repeated or self._partly_there
        await self._note_failure(connection, failure)

    def _land(self, session: Session, batch: Batch, result: RoundResult) -> None:
        if self._membership.id != session.member or not self._membership.holds:
            # The membership is lost: the server that sweeps it takes the fetched jobs over.
            result = replace(result, fetched=())
        self._position.round_ended(batch, result.fetched)
        self._source.landed(batch, result)

    async def _note_failure(self, connection: TrioConnection, error: psycopg.Error) -> None:
        """Go on after a round that the database has answered with an error."""
        self._health.answered()
        if error.sqlstate == _STALE:
            raise _SessionOverError from error
        if not (refuses(error) or is_passing(error)):
            raise error  # our bug, and no client's
        if refuses(error):
            self._health.refused(error, *written_parts(self._round))
        elif self._failures:  # once is not worth a line
            self._health.writes.fails(error)
        if self._in_doubt:  # it may be committed: refuse nothing of it
            await self._pause()
            raise _SessionOverError from error
        assert self._round is not None  # noqa: S101 - it was sent
        batch, self._round = self._round, None
        self._position.round_failed(batch.want)
        self._source.put_back(batch, StoreWriteError(one_line(error)) if refuses(error) else None)
        await self._pause()
        if error.sqlstate == READ_ONLY:  # one of the URL's other hosts may not be
            connection.finish()
            raise error

    async def _send(
        self, connection: TrioConnection, session: Session, batch: Batch
    ) -> RoundResult:
        """Send a round: each submission that is not plain alone, and then the rest together."""
        groups = [each for each in batch.new if not each.is_plain]
        parts = [Batch(new=(each,)) for each in groups]
        if groups:
            batch = batch._replace(new=[each for each in batch.new if each.is_plain])
        if not groups or not batch.is_empty:
            parts.append(batch)
        return sum_of([await self._send_part(connection, session, each) for each in parts])

    async def _send_part(
        self, connection: TrioConnection, session: Session, part: Batch
    ) -> RoundResult:
        """Send a part of a round. If the database does not accept it, send its parts.

        Alone, a submission is refused; anything else is a bug.
        """
        try:
            result = await self._send_whole(connection, session, part)
        except psycopg.Error as error:
            known = error.sqlstate == _STALE or refuses(error) or is_passing(error)
            if connection.closed or known:
                raise
            failure = error
        else:
            self._partly_there = True
            return result
        parts = part.parts()
        if len(parts) > 1:
            return sum_of([await self._send_part(connection, session, each) for each in parts])
        if not part.new:
            raise failure
        self._refuse(part.new[0], StoreWriteError(one_line(failure)))
        return RoundResult()

    async def _send_whole(
        self, connection: TrioConnection, session: Session, part: Batch
    ) -> RoundResult:
        if part.new and not part.new[0].is_plain:
            group = part.new[0]
            error = await self._await_answer(round_calls.add_group(connection, group, session))
            if error is None:
                return RoundResult(taken=[group])
            self._refuse(group, error)
            return RoundResult()
        if self._is_sent:
            self._is_sent = False
            result = await self._await_answer(quick_fetch.receive(connection, part, session))
            if result.fetched or await self._is_current(connection, session):
                return result
        sql, params = round_calls.call(part, session, self._position.low)
        rows = await self._execute(connection, sql, params)
        result, is_member = round_calls.result_of(rows, part, session)
        if session.member and not is_member and session.member == self._membership.id:
            self._membership.lost()
        return result

    async def _is_current(self, connection: TrioConnection, session: Session) -> bool:
        """Whether the member is there, and this is its session; a round says it otherwise."""
        rows = await self._execute(connection, _SESSION, {"member": session.member})
        return rows == [(session.number,)]

    def _refuse_waiting(self, error: psycopg.Error) -> None:
        """The database refuses even a session: refuse the requests, and the next round."""
        self._health.answered()
        self._health.refused(error)
        refusal = StoreWriteError(one_line(error))
        while self._requests:
            self._health.refused(error, REQUEST)
            self._requests.popleft().refuse(error)
        if self._round is None and (batch := self._source.take(may_fetch=False)) is not None:
            self._health.refused(error, *written_parts(batch))
            self._source.put_back(batch, refusal)

    def _refuse(self, new: NewJobs, error: Exception) -> None:
        """Refuse a submission, and leave it out of the round."""
        assert self._round is not None  # noqa: S101 - it is being sent
        others = [each for each in self._round.new if each is not new]
        self._round = self._round._replace(new=others)
        new.refused(error)

    async def _carry_out_requests(self, connection: TrioConnection) -> None:
        while self._requests:
            request = self._requests[0]
            failure = None
            was_in_doubt, request.is_in_doubt = request.is_in_doubt, True
            try:
                request.rows = await self._execute(connection, request.sql, request.params)
            except psycopg.Error as error:
                if connection.closed:
                    raise
                failure, request.is_in_doubt = error, was_in_doubt
            if failure is not None and is_passing(failure):
                if self._failures:
                    self._health.writes.fails(failure, REQUEST)
                await self._pause()
                continue
            self._health.writes.works(REQUEST)
            self._requests.popleft()
            if failure is not None and refuses(failure):
                self._health.refused(failure, REQUEST)
                request.refuse(failure)
            else:
                if failure is None:
                    self._health.wrote(REQUEST)
                request.end(failure)

    async def _execute(
        self, connection: TrioConnection, sql: str, params: Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        return await self._await_answer(connection.fetch(sql, params))

    async def _await_answer(self, statement: Awaitable[_Result]) -> _Result:
        """Wait for the database's answer to a statement, for `_patience` at the most."""
        self._health.asked()
        # A cancelled statement closes the connection: it is in doubt, as after a lost connection.
        with trio.move_on_after(self._patience):
            result = await statement
            self._health.answered()
            self._patience = _PATIENCE
            return result
        self._patience = min(2 * self._patience, _LONGEST_PATIENCE)
        raise psycopg.OperationalError("the database has not answered")

    async def _pause(self) -> None:
        self._failures += 1
        await pause_before(self._failures)


async def _let_others_join() -> None:
    # Submitters, and workers whose jobs have ended, are about to run: let them add to this round.
    # Otherwise they would need a second round, and the tasks that it wakes a third.
    for _ in range(2):
        await trio.lowlevel.checkpoint()
