"""A pool over a database that servers share: what it fetches, holds, gives back, and counts."""

from collections import Counter
from datetime import timedelta

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.pool.shared import TIMEOUT, SharedPool, make_shared_pool, running
from tests.stores.fake_rounds import Row
from tests.support import make_job
from trio_jobs import Handler, Job, JobStatus, Outcome, RetryPolicy
from trio_jobs.job import IdempotencyKey
from trio_jobs.pool.cancels import STRIDE, cancel_all
from trio_jobs.pool.fetching import SharedRoom
from trio_jobs.pool.job_query import JobQuery
from trio_jobs.pool.job_spec import JobSpec
from trio_jobs.pool.refusals import (
    QueueFullError,
    ShuttingDownError,
    StoreTimeoutError,
    StoreUnavailableError,
    StoreWriteError,
)
from trio_jobs.pool.statistics import TypeStatistics
from trio_jobs.pool.store import DuplicateJobError

PLAIN = JobSpec("t", b"null")


class Runs:
    """The runs of handlers, of all servers.

    Attributes:
        begun: How many have begun.
        now: How many there are.
        most: How many there were at the same time, at the most.
    """

    def __init__(self, seconds: float = 1.0, *, fails: int = 0) -> None:
        self.begun = self.now = self.most = 0
        self._seconds = seconds
        self._fails = fails

    def handler(self, **values: object) -> Handler:
        """A handler that takes its time, and fails the first times."""

        async def run(_: object) -> None:
            self.begun += 1
            number = self.begun
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await trio.sleep(self._seconds)
            finally:
                self.now -= 1
            if number <= self._fails:
                raise ValueError

        return Handler.of(run, **values)  # type: ignore[arg-type]


async def ended(server: SharedPool, *jobs: Job) -> list[Job]:
    """Wait for the ends of jobs; they are in the database."""
    for job in jobs:
        if server.database.rows[job.id].job.ending is None:
            with server.pool.waiters.subscribe(job.id) as completion:
                await completion.wait()
    return [server.database.rows[job.id].job for job in jobs]


async def fetched_ahead(server: SharedPool, number: int) -> None:
    """Wait until so many jobs wait here for a worker."""
    while server.pool.admission.buffered < number:
        await server.pump.landed.wait()


def counts(server: SharedPool) -> TypeStatistics:
    """What is counted of the jobs of the type ``t``."""
    assert server.pool.observation is not None
    return server.pool.observation.types()["t"]


def key(text: str) -> IdempotencyKey:
    return IdempotencyKey(text=text, digest=b"1")


# Runs and ends.


async def test_job_runs_and_its_end_shows_when_it_is_recorded(autojump_clock: MockClock) -> None:
    server = make_shared_pool({"t": Runs().handler()})

    async with running(server):
        [job] = await server.submit("t")
        with server.pool.waiters.subscribe(job.id) as completion:
            await trio.sleep(0.5)
            server.pump.is_away = True
            await trio.sleep(5.0)
            assert completion.job is None
            assert server.store.shown_nowait(job.id).status is JobStatus.PROCESSING
            server.pump.come_back()
            await completion.wait()

        [end] = await ended(server, job)
        assert completion.job == end
        assert end.outcome is Outcome.SUCCEEDED


async def test_long_jobs_are_fetched_one_for_each_free_worker(autojump_clock: MockClock) -> None:
    runs = Runs()
    server = make_shared_pool({"t": runs.handler()}, workers=2, buffer_size=4)

    async with running(server):
        jobs = await server.submit(*["t"] * 8)
        for _ in range(4):
            await trio.sleep(0.5)
            assert len(server.database.owned(server.pump.member)) == 2
            await trio.sleep(0.5)
        await ended(server, *jobs)

    assert runs.most == 2


async def test_short_jobs_are_fetched_ahead_while_a_round_goes_on(
    autojump_clock: MockClock,
) -> None:
    server = make_shared_pool({"t": Runs(0.1).handler()}, workers=1, buffer_size=4)
    server.pump.seconds = 1.0

    async with running(server):
        jobs = await server.pool.admission.admit_all([PLAIN] * 20)
        await ended(server, *jobs)
        # Some rounds for the first ones, which end one by one; then five jobs with each.
        assert trio.current_time() < 15.0  # one by one it would take 22 s


async def test_two_servers_run_each_job_once_and_share_the_work(autojump_clock: MockClock) -> None:
    runs = Runs()
    a = make_shared_pool({"t": runs.handler()})
    b = make_shared_pool({"t": runs.handler()}, a.database)

    async with running(a, b):
        jobs = await a.submit(*["t"] * 20)
        assert {job.outcome for job in await ended(a, *jobs)} == {Outcome.SUCCEEDED}
        assert trio.current_time() < 8.0  # alone it would take 10 s

    assert runs.begun == 20
    assert runs.most == 4
    for server in (a, b):
        now = counts(server)
        assert (now.pending, now.processing, now.retrying) == (0, 0, 0)
    assert counts(a).submitted == 20
    assert counts(b).submitted == 0


async def test_failed_job_gets_its_next_attempt_from_any_server(autojump_clock: MockClock) -> None:
    runs = Runs(fails=2)
    retry = RetryPolicy(attempts=3)
    a = make_shared_pool({"t": runs.handler(retry=retry)})
    b = make_shared_pool({"t": runs.handler(retry=retry)}, a.database)

    async with running(a, b):
        [job] = await ended(a, *await a.submit("t"))

    assert (job.outcome, job.attempts) == (Outcome.SUCCEEDED, 3)
    for server in (a, b):
        now = counts(server)
        assert (now.pending, now.processing, now.retrying) == (0, 0, 0)
    assert counts(a).attempts_failed + counts(b).attempts_failed == 2


async def test_delayed_job_begins_at_its_time(autojump_clock: MockClock) -> None:
    server = make_shared_pool({"t": Runs().handler()})

    async with running(server):
        job = await server.pool.admission.admit(JobSpec("t", b"null", due=60.0))
        assert server.pool.schedule.count == 0
        [end] = await ended(server, job)

    assert end.started_at is not None
    assert end.started_at - job.created_at == pytest.approx(
        timedelta(seconds=60), abs=timedelta(seconds=0.1)
    )


async def test_job_that_may_not_run_twice_begins_when_that_is_in_the_database(
    autojump_clock: MockClock,
) -> None:
    runs = Runs()
    server = make_shared_pool({"t": runs.handler(repeatable=False)})

    async with running(server):
        [job] = await server.submit("t")
        server.pump.is_away = True
        await trio.sleep(5.0)
        assert runs.begun == 0
        server.pump.come_back()
        await trio.sleep(0.5)
        assert runs.begun == 1
        assert server.database.rows[job.id].job.started_at is not None
        await ended(server, job)


async def test_one_job_that_was_in_a_crash_is_here_at_a_time(autojump_clock: MockClock) -> None:
    runs = Runs()
    server = make_shared_pool({"t": runs.handler()}, workers=4)
    for number in range(3):
        job = Job(
            id=f"{number}",
            type="t",
            payload=b"null",
            created_at=server.database.now(),
            interruptions=1,
        )
        server.database.rows[job.id] = Row(job)

    async with running(server):
        await ended(server, *(row.job for row in server.database.rows.values()))
        assert trio.current_time() == pytest.approx(3.0, abs=0.5)

    assert (runs.begun, runs.most) == (3, 1)


# Limits and pauses.


@pytest.mark.parametrize("type_", ["t", "any"])
async def test_limited_type_runs_as_many_as_it_may_and_the_others_stay_in_the_database(
    type_: str, autojump_clock: MockClock
) -> None:
    runs, others = Runs(), Runs()
    limited = {"t" if type_ == "t" else "default": runs.handler(max_running=2)}
    server = make_shared_pool({**limited, "other": others.handler()}, workers=6, buffer_size=10)

    async with running(server):
        jobs = await server.submit(*[type_] * 6, "other", *[type_] * 4, "other")
        await trio.sleep(0.5)
        assert (runs.now, others.now) == (2, 2)
        assert len(server.database.owned(server.pump.member)) == 4
        await ended(server, *jobs)
        assert trio.current_time() == pytest.approx(5.0, abs=0.5)

    assert runs.most == 2


async def test_paused_type_is_not_fetched_and_what_was_goes_back(autojump_clock: MockClock) -> None:
    runs = Runs(0.1)
    server = make_shared_pool({"t": runs.handler(), "other": runs.handler()}, workers=1)
    server.pump.seconds = 1.0

    async with running(server):
        first = await server.pool.admission.admit_all([PLAIN] * 20)
        await fetched_ahead(server, 3)
        before = runs.begun
        server.pool.paused.pause(["t"])
        others = await server.submit("t", "other")
        await ended(server, others[1])
        assert runs.begun <= before + 2
        await wait_all_tasks_blocked()
        assert not server.database.owned(server.pump.member)
        assert counts(server).pending == 0

        await server.pool.paused.resume(["t"])
        await ended(server, *first, *others)

    assert runs.begun == 22


async def test_a_refusal_counts_on_the_other_servers_to_make_room(
    autojump_clock: MockClock,
) -> None:
    members = ["this"]
    room = SharedRoom(4, lambda: members)
    room.measure_claim()
    await trio.sleep(10.0)

    assert room.retry_after(4) == 40
    members.append("other")
    assert room.retry_after(4) == 20


async def test_jobs_of_a_lost_lease_run_one_at_a_time(
    autojump_clock: MockClock,
) -> None:
    runs = Runs(10.0)
    a = make_shared_pool({"t": Runs(10.0).handler()}, workers=3)
    b = make_shared_pool({"t": runs.handler()}, a.database, workers=3)

    async with running(a):
        jobs = await a.submit("t", "t", "t")
        await trio.sleep(1.0)
        lost = a.pump.member
        a.lose()
        await wait_all_tasks_blocked()
        a.database.sweep(lost)
        began = trio.current_time()
        async with running(b):
            await ended(b, *jobs)
            assert runs.most == 1
            assert trio.current_time() - began == pytest.approx(30.0, abs=0.5)


async def test_paused_server_asks_for_no_jobs_but_those_to_cancel() -> None:
    server = make_shared_pool({"t": Runs().handler(), "other": Runs().handler()})
    take = server.store.take
    server.pool.capacity.slot_freed(2)  # as workers do when they begin
    server.pool.paused.pause(["t"])
    assert take(may_fetch=True) is not None
    server.pool.paused.pause(["other"])

    assert take(may_fetch=True) is None
    server.store.request_cancel_nowait("a")
    cancels = take(may_fetch=True)
    assert cancels is not None
    assert (cancels.cancels, cancels.want.types) == (["a"], [])
    assert take(may_fetch=True) is None
    server.store.note_beat([])  # another server may have cancelled one
    assert take(may_fetch=True) is not None
    assert take(may_fetch=True) is None


async def test_servers_that_know_different_types_each_run_their_own(
    autojump_clock: MockClock,
) -> None:
    runs, others = Runs(), Runs()
    a = make_shared_pool({"t": runs.handler()})
    b = make_shared_pool({"other": others.handler()}, a.database)

    async with running(a, b):
        jobs = await a.submit("other", "t", "other", "t")
        await ended(a, *jobs)

    assert (runs.begun, others.begun) == (2, 2)


# Cancels.


async def test_cancel_reaches_the_server_that_runs_the_job(autojump_clock: MockClock) -> None:
    server = make_shared_pool({"t": Runs(60.0).handler()})

    async with running(server):
        [job] = await server.submit("t")
        await trio.sleep(0.5)
        server.database.cancel(job.id)
        server.store.note_cancel(job.id)
        [end] = await ended(server, job)

    assert end.outcome is Outcome.CANCELLED


async def test_cancelled_job_that_is_held_here_ends_without_its_handler(
    autojump_clock: MockClock,
) -> None:
    runs = Runs(5.0)
    server = make_shared_pool({"t": runs.handler()}, workers=1)

    async with running(server):
        jobs = await server.submit("t", "t")
        await trio.sleep(5.5)
        third = (await server.submit("t"))[0]
        server.database.cancel(third.id)
        server.store.note_cancel(third.id)
        ends = await ended(server, *jobs, third)

    assert [job.outcome for job in ends] == [
        Outcome.SUCCEEDED,
        Outcome.SUCCEEDED,
        Outcome.CANCELLED,
    ]
    assert runs.begun == 2


# The lease.


async def test_lost_lease_cuts_the_jobs_and_they_run_again_elsewhere(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    runs = Runs(10.0)
    a = make_shared_pool({"t": runs.handler()}, workers=2)
    b = make_shared_pool({"t": runs.handler()}, a.database, workers=2)

    async with running(a):
        jobs = await a.submit("t", "t")
        await trio.sleep(1.0)
        lost = a.pump.member
        a.lose()
        await wait_all_tasks_blocked()
        assert runs.now == 0
        assert counts(a).processing == counts(a).pending == 0
        a.database.sweep(lost)
        async with running(b):
            ends = await ended(b, *jobs)
            a.rejoin()
            more = await a.submit("t")
            await ended(a, *more)

    assert [(job.outcome, job.interruptions) for job in ends] == [(Outcome.SUCCEEDED, 1)] * 2
    assert [record.message for record in caplog.records] == ["job_cut"] * 2


async def test_what_was_fetched_under_a_lost_lease_is_not_run_and_takes_no_slot(
    autojump_clock: MockClock,
) -> None:
    runs = Runs(0.1)
    server = make_shared_pool({"t": runs.handler()}, workers=1, buffer_size=4)
    server.pump.seconds = 1.0

    async with running(server):
        jobs = await server.pool.admission.admit_all([PLAIN] * 20)
        await fetched_ahead(server, 3)
        lost, before = server.pump.member, runs.begun
        server.lose()
        await trio.sleep(2.0)
        assert runs.begun == before
        assert server.pool.capacity.free == 5
        server.database.sweep(lost)
        server.rejoin()
        ends = await ended(server, *jobs)

    assert {job.outcome for job in ends} == {Outcome.SUCCEEDED}
    assert counts(server).pending == counts(server).processing == 0


async def test_job_fetched_anew_waits_until_its_old_run_has_unwound(
    autojump_clock: MockClock,
) -> None:
    unwinding, runs = trio.Event(), Counter[str]()

    async def handle(_: object) -> None:
        runs["begun"] += 1
        runs["now"] += 1
        runs["most"] = max(runs["most"], runs["now"])
        try:
            await trio.sleep(5.0)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.0 if runs["begun"] > 1 else 100.0)
            runs["now"] -= 1
            unwinding.set()

    server = make_shared_pool({"t": Handler.of(handle)}, workers=2)

    async with running(server):
        jobs = await server.submit("t")
        await trio.sleep(1.0)
        lost = server.pump.member
        server.lose()
        server.database.sweep(lost)
        server.rejoin()
        await trio.sleep(50.0)
        assert runs == {"begun": 1, "now": 1, "most": 1}
        [end] = await ended(server, *jobs)

    assert end.outcome is Outcome.SUCCEEDED
    assert (runs["begun"], runs["most"]) == (2, 1)


async def test_end_that_another_server_has_overtaken_is_not_shown(
    autojump_clock: MockClock,
) -> None:
    runs = Runs(1.0)
    a = make_shared_pool({"t": runs.handler()})
    b = make_shared_pool({"t": Runs(10.0).handler()}, a.database)

    async with running(a):
        [job] = await a.submit("t")
        a.pump.is_away = True
        with a.pool.waiters.subscribe(job.id) as completion:
            await trio.sleep(2.0)  # it has ended, and its end is not recorded
            lost = a.pump.member
            a.lose()
            a.database.sweep(lost)
            async with running(b):
                await trio.sleep(1.0)
                a.rejoin()
                a.pump.come_back()
                await trio.sleep(1.0)
                assert completion.job is None
                await ended(b, job)
        assert counts(a).processing == counts(a).pending == 0

    assert a.database.rows[job.id].job.interruptions == 1


# Stops.


async def test_stop_gives_back_what_has_not_begun_and_lets_the_others_end(
    autojump_clock: MockClock,
) -> None:
    runs = Runs(1.0)
    server = make_shared_pool({"t": runs.handler()}, workers=1, buffer_size=4)

    async with running(server):
        jobs = await server.submit(*["t"] * 6)
        await trio.sleep(2.5)
        server.pool.admission.close()
        await wait_all_tasks_blocked()
        assert [held.job.id for held in server.database.owned(server.pump.member)] == [jobs[2].id]
        with pytest.raises(ShuttingDownError):
            await server.submit("t")

    states = [server.database.rows[job.id].job.status for job in jobs]
    assert states == [JobStatus.COMPLETED] * 3 + [JobStatus.PENDING] * 3
    assert {server.database.rows[job.id].job.attempts for job in jobs[3:]} == {0}
    assert not server.pool.left_behind()
    assert trio.current_time() == pytest.approx(3.0, abs=0.5)


async def test_stop_begins_none_of_the_jobs_that_were_fetched_ahead(
    autojump_clock: MockClock,
) -> None:
    runs = Runs(0.1)
    server = make_shared_pool({"t": runs.handler()}, workers=1)
    server.pump.seconds = 1.0

    async with running(server):
        await server.pool.admission.admit_all([PLAIN] * 20)
        await fetched_ahead(server, 3)
        begun = runs.begun
        server.pool.admission.close()

    rows = [row.job.status for row in server.database.rows.values()]
    assert runs.begun == begun
    assert rows.count(JobStatus.PENDING) == 20 - begun
    assert not server.database.owned(server.pump.member)


async def test_job_that_is_cut_as_the_pool_ends_goes_back_or_ends(
    autojump_clock: MockClock,
) -> None:
    server = make_shared_pool(
        {"t": Runs(60.0).handler(), "once": Runs(60.0).handler(repeatable=False)}
    )

    async with trio.open_nursery() as pumps:
        pumps.start_soon(server.pump.run)
        async with trio.open_nursery() as nursery:
            server.start(nursery)
            again, once = await server.submit("t", "once")
            await trio.sleep(1.0)
            server.pool.admission.close()
            nursery.cancel_scope.cancel()
        assert {job.id for job in server.pool.left_behind().begun} == {again.id, once.id}
        await wait_all_tasks_blocked()
        pumps.cancel_scope.cancel()

    rows = server.database.rows
    assert (rows[again.id].owner, rows[again.id].job.status) == (0, JobStatus.PENDING)
    assert rows[again.id].job.attempts == 0
    assert rows[once.id].job.outcome is Outcome.INTERRUPTED


# Admission.


async def test_submission_that_no_round_has_taken_is_withdrawn(autojump_clock: MockClock) -> None:
    server = make_shared_pool({"t": Runs().handler()})

    async with running(server):
        server.pump.is_away = True
        with pytest.raises(StoreUnavailableError):
            await server.submit("t")
        assert trio.current_time() == pytest.approx(TIMEOUT)
        server.pump.come_back()
        await wait_all_tasks_blocked()

        assert not server.database.rows
        assert len(await server.submit("t")) == 1


async def test_submission_in_a_round_that_is_not_answered_is_in_doubt(
    autojump_clock: MockClock,
) -> None:
    server = make_shared_pool({"t": Runs().handler()})

    async with trio.open_nursery() as nursery:
        server.start(nursery)
        await wait_all_tasks_blocked()
        nursery.start_soon(_cut, server)
        with pytest.raises(StoreTimeoutError):
            await server.submit("t")
        assert len(server.database.rows) == 1
        server.pump.send()
        await wait_all_tasks_blocked()
        assert server.database.owned(server.pump.member)
        nursery.cancel_scope.cancel()


async def _cut(server: SharedPool) -> None:
    await wait_all_tasks_blocked()
    server.pump.send(answered=False)


async def test_database_that_refuses_to_write_keeps_nothing_of_a_submission(
    autojump_clock: MockClock,
) -> None:
    server = make_shared_pool({"t": Runs().handler()}, max_open=1)

    async with trio.open_nursery() as nursery:
        server.start(nursery)
        await wait_all_tasks_blocked()
        nursery.start_soon(_refuse, server)
        with pytest.raises(StoreWriteError, match="full"):
            await server.submit("t")
        nursery.start_soon(_send, server)
        assert len(await server.submit("t")) == 1  # there is room
        nursery.cancel_scope.cancel()


async def _refuse(server: SharedPool) -> None:
    await wait_all_tasks_blocked()
    server.pump.refuse()


async def _send(server: SharedPool) -> None:
    await wait_all_tasks_blocked()
    server.pump.send()


async def test_cancelled_submitter_changes_nothing(autojump_clock: MockClock) -> None:
    server = make_shared_pool({"t": Runs().handler()})

    async with running(server):
        server.pump.is_away = True
        with trio.move_on_after(1.0):
            await server.submit("t")
        server.pump.come_back()
        await wait_all_tasks_blocked()

        assert len(server.database.rows) == 1


async def test_open_jobs_of_all_servers_are_bounded(autojump_clock: MockClock) -> None:
    a = make_shared_pool({"t": Runs(100.0).handler()}, max_open=4)
    b = make_shared_pool({"t": Runs(100.0).handler()}, a.database, max_open=4)

    async with running(a, b) as nursery:
        await a.submit("t", "t", "t")
        await b.submit("t")
        with pytest.raises(QueueFullError):
            await b.submit("t", "t", "t", "t")
        await wait_all_tasks_blocked()
        assert len(a.database.rows) <= 5  # soft: the count of the others' jobs may be old
        for server in (a, b):
            with pytest.raises(QueueFullError):
                await server.submit("t", "t")
        await trio.sleep(120.0)  # they have ended
        await b.submit("t")
        nursery.cancel_scope.cancel()


async def test_full_server_notices_that_others_have_made_room(autojump_clock: MockClock) -> None:
    a = make_shared_pool({"other": Runs().handler()}, max_open=2)
    b = make_shared_pool({"t": Runs(1.0).handler()}, a.database)

    async with running(a, b):
        await a.submit("t", "t")
        await trio.sleep(1.5)
        with pytest.raises(QueueFullError):
            await a.submit("t")
        await wait_all_tasks_blocked()

        assert len(await a.submit("t")) == 1


async def test_stream_waits_for_room_and_goes_on(autojump_clock: MockClock) -> None:
    server = make_shared_pool({"t": Runs(1.0).handler()}, workers=1, max_open=2)

    async with running(server):
        specs = [PLAIN] * 5
        while specs:
            jobs = await server.pool.admission.admit_up_to(specs)
            specs = specs[len(jobs) :]
        assert trio.current_time() == pytest.approx(4.0, abs=0.5)


async def test_stream_that_waits_hears_with_a_heartbeat_that_others_have_made_room(
    autojump_clock: MockClock,
) -> None:
    a = make_shared_pool({"other": Runs().handler()}, max_open=2)
    b = make_shared_pool({"t": Runs(1.0).handler()}, a.database)

    async with running(a, b) as nursery:
        await a.submit("t", "t")
        nursery.start_soon(a.pool.admission.admit_up_to, [PLAIN])
        await trio.sleep(1.5)
        a.store.hint(None)
        await wait_all_tasks_blocked()

        assert len(a.database.rows) == 3


async def test_known_key_is_refused_and_its_job_is_not_made_twice(
    autojump_clock: MockClock,
) -> None:
    server = make_shared_pool({"t": Runs().handler()})
    named = JobSpec("t", b"null", key=key("k"))

    async with running(server):
        admission = server.pool.admission
        await admission.admit(named)
        with pytest.raises(DuplicateJobError):
            await admission.admit(named)
        with pytest.raises(DuplicateJobError):
            await admission.admit_all([PLAIN, named])
        assert len(server.database.rows) == 1

        assert await admission.admit_up_to([named, PLAIN]) == []
        assert len(await admission.admit_up_to([PLAIN, named])) == 1
        assert len(await admission.admit_up_to([PLAIN, PLAIN])) == 2


async def test_closed_admission_refuses_who_waits_for_room(autojump_clock: MockClock) -> None:
    server = make_shared_pool({"t": Runs(60.0).handler()}, max_open=1)

    async with running(server) as nursery:
        await server.submit("t")

        async def wait() -> None:
            with pytest.raises(ShuttingDownError):
                await server.pool.admission.admit_up_to([PLAIN])

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        server.pool.admission.close()


async def test_a_cancel_of_many_is_unknown_if_the_database_goes_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = make_shared_pool({"a": Runs().handler()})
    pages = [[make_job(f"{number:03}", type="a") for number in range(STRIDE)]]

    async def page(_query: JobQuery, **_: object) -> list[Job]:
        await trio.lowlevel.checkpoint()
        if not pages:
            raise StoreUnavailableError
        return pages.pop()

    monkeypatch.setattr(server.store, "page", page)

    with pytest.raises(StoreTimeoutError):
        await cancel_all(server.pool, JobQuery())
    with pytest.raises(StoreUnavailableError):
        await cancel_all(server.pool, JobQuery())
