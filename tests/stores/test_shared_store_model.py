"""Two servers over one database, against what clients are owed, over any sequence of events.

The events are those of servers and of their database: rounds, which may be cut off before or after
their commit, refused ones, leases that run out, deaths, stops; and those of workers and clients.
Nothing waits here: `tests/stores/test_shared_store.py` has what does.
"""

from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.proof.share import few_or_many, others
from tests.stores.fake_rounds import FakeDatabase, Server
from tests.support import NOON
from trio_jobs import Ending, Outcome
from trio_jobs.job import IdempotencyKey, Job, JobStatus, Later
from trio_jobs.stores.postgres.membership import CUT

# A type without a limit, one of which a server runs one at a time, and one that may not run twice.
TYPES = ("free", "limited", "once")
LIMITS = {"limited": 1}

SUCCEEDED = Ending(outcome=Outcome.SUCCEEDED, result=b"1")

some_server = st.sampled_from([0, 1])
some_number = st.integers(0, 9)


def is_repeatable(type_: str) -> bool:
    return type_ != "once"


class SharedStoreMachine(RuleBasedStateMachine):
    """The two servers, and what they have said."""

    def __init__(self) -> None:
        super().__init__()
        self.database = FakeDatabase()
        self.database.repeatable = is_repeatable
        self.servers: list[Server] = []
        self.number = 0
        self.landed: set[str] = set()
        self.refused: set[str] = set()
        self.shown: dict[str, Job] = {}
        # What the workers of each server run, by the server's place.
        self.runs: list[list[str]] = [[], []]
        self.kills = 0

    @initialize()
    def start(self) -> None:
        for _ in range(2):
            self.servers.append(Server(self.database, limits=LIMITS))
        self.submit(0, ["free", "limited", "once", "free"])
        for each in self.servers:
            each.send()

    # Clients.

    @rule(server=some_server, types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=3))
    def submit(self, server: int, types: list[str]) -> None:
        jobs = [self.new_job(type_) for type_ in types]
        self.hand_in(server, jobs)

    @rule(server=some_server, key=st.sampled_from("xy"))
    def submit_with_a_key(self, server: int, key: str) -> None:
        named = IdempotencyKey(text=key, digest=b"1")
        self.hand_in(server, [self.new_job("free", key=named)])

    @rule(server=some_server)
    def withdraw(self, server: int) -> None:
        store = self.servers[server].store
        job = self.new_job("free")
        submission = store.submit([job], landed=lambda: None, refused=lambda _: None)
        assert store.withdraw(submission)
        self.refused.add(job.id)

    @rule(number=some_number)
    def cancel(self, number: int) -> None:
        """A client has another server ask the database, which tells the one that has the job."""
        if (job := self.some_row(number)) is not None:
            owner = self.database.cancel(job.id)
            for each in self.servers:
                if owner and each.member == owner:
                    each.store.note_cancel(job.id)

    @rule(server=some_server, number=some_number)
    def cancel_with_others(self, server: int, number: int) -> None:
        if (job := self.some_row(number)) is not None and job.ending is None:
            store = self.servers[server].store
            if job.id not in store.unwritten_ends():
                store.request_cancel_nowait(job.id)

    @rule(server=some_server, number=some_number)
    def wait(self, server: int, number: int) -> None:
        if (job := self.some_row(number)) is not None:
            self.servers[server].waiters.call(job.id, lambda *_: None)

    # Workers.

    @rule(server=some_server)
    def claim(self, server: int) -> None:
        each, runs = self.servers[server], self.runs[server]
        if len(runs) < each.local.workers and (job := each.claim()) is not None:
            assert job.id not in runs, "its old run has not unwound"
            runs.append(job.id)

    @rule(server=some_server, number=some_number)
    def end(self, server: int, number: int) -> None:
        each = self.servers[server]
        if (job_id := self.take_run(server, number)) is not None:
            each.store.complete(job_id, SUCCEEDED, show=partial(self.show, each))

    @rule(server=some_server, number=some_number, snooze=st.booleans())
    def postpone(self, server: int, number: int, snooze: bool) -> None:
        each = self.servers[server]
        if (job_id := self.take_run(server, number)) is not None:
            is_cut = not each.store.is_here(job_id)
            each.store.postpone(job_id, CUT if is_cut else Later(seconds=0.0, snooze=snooze))

    @rule(server=some_server)
    def work(self, server: int) -> None:
        """What most jobs do."""
        self.claim(server)
        self.end(server, 0)
        self.make_round(server)

    @rule(server=some_server)
    def give_back(self, server: int) -> None:
        """A worker has come to a job of a paused type."""
        each = self.servers[server]
        if each.local.channel and not each.local.stale[job_id := each.local.channel[0]]:
            each.local.channel.popleft()
            each.store.give_back(job_id)
            each.local.stale[job_id] -= 1  # it was not in the channel any more

    # Rounds.

    @rule(server=some_server)
    def make_round(self, server: int) -> None:
        self.servers[server].send()

    @rule(server=some_server)
    def cut_round_after_its_commit(self, server: int) -> None:
        self.servers[server].send(answered=False)

    @rule(server=some_server)
    def lose_lease_before_the_answer(self, server: int) -> None:
        self.servers[server].send(loses=True)

    @rule(server=some_server)
    def refuse_round(self, server: int) -> None:
        self.servers[server].refuse()

    @rule(server=some_server)
    def hear(self, server: int) -> None:
        self.servers[server].hear()

    @rule(server=some_server)
    def listen_anew(self, server: int) -> None:
        self.servers[server].listen_anew()

    # Servers.

    @rule(server=some_server)
    def lose_lease(self, server: int) -> None:
        self.servers[server].lose()

    @rule(server=some_server)
    def rejoin(self, server: int) -> None:
        if not self.servers[server].member:
            self.servers[server].rejoin()

    @rule(server=some_server)
    def lose_lease_and_fetch_anew(self, server: int) -> None:
        self.lose_lease(server)
        self.sweep()
        self.rejoin(server)
        self.make_round(server)

    @rule()
    def sweep(self) -> None:
        """Leases are over in the database later than in their servers."""
        for member in self.database.members - {each.member for each in self.servers}:
            self.database.sweep(member)

    @precondition(lambda self: self.kills < 3)
    @rule(server=some_server)
    def kill(self, server: int) -> None:
        self.kills += 1
        self.restart(server)

    @rule(server=some_server, cuts=st.booleans())
    def stop(self, server: int, cuts: bool) -> None:
        """A server gives back what has not begun; its running jobs end, or are cut at last."""
        each = self.servers[server]
        each.store.keep_pending()
        each.local.closed = True
        while each.local.channel:
            assert each.claim() is None
        for job_id in self.runs[server]:
            if cuts:
                each.store.release(job_id, show=partial(self.show, each))
            else:
                each.store.complete(job_id, SUCCEEDED, show=partial(self.show, each))
        while each.send():
            pass
        assert not each.store.unwritten
        if each.member:
            assert not self.database.owned(each.member)
            self.database.sweep(each.member)
        self.restart(server)

    def restart(self, server: int) -> None:
        self.servers[server] = Server(self.database, limits=LIMITS)
        self.runs[server] = []

    # What must hold.

    @invariant()
    def no_job_runs_twice_at_a_time(self) -> None:
        runs = [
            job_id
            for each, runs in zip(self.servers, self.runs, strict=True)
            for job_id in runs
            if each.member and each.store.is_here(job_id)
        ]
        assert len(runs) == len(set(runs))

    @invariant()
    def no_job_that_has_ended_runs(self) -> None:
        for each, runs in zip(self.servers, self.runs, strict=True):
            for job_id in runs:
                if each.store.is_here(job_id):
                    assert self.database.rows[job_id].job.ending is None

    @invariant()
    def each_server_knows_what_it_has(self) -> None:
        """Otherwise nobody would come to a job while the lease goes on."""
        for each in self.servers:
            if each.member and not each.in_doubt:
                owned = {
                    (owned.job.id, owned.fetches) for owned in self.database.owned(each.member)
                }
                assert owned <= each.store.owned(each.member)

    @invariant()
    def what_is_queued_is_here(self) -> None:
        for each in self.servers:
            jobs = each.store.unfinished()
            pending = sorted(job.id for job in (*jobs.not_begun, *jobs.waiting))
            channel = list(each.local.channel)
            for job_id, copies in each.local.stale.items():
                for _ in range(copies):
                    channel.remove(job_id)
            assert sorted(channel) == pending

    @invariant()
    def few_jobs_are_here(self) -> None:
        for each in self.servers:
            here = [row for row in map(self.database.rows.get, self.owned(each)) if row is not None]
            jobs = [each.store.find_nowait(row.job.id) for row in here]
            wanted = [job for job in jobs if not job.cancel_requested]
            assert sum(job.type == "limited" for job in wanted) <= 1 + self.slack(each)
            assert sum(job.interruptions > 0 for job in wanted) <= 1 + self.slack(each)

    @invariant()
    def nobody_sees_what_is_not_recorded(self) -> None:
        for each in self.servers:
            for job_id in self.database.rows:
                shown = each.store._owned_job(job_id)
                assert shown is None or shown.status is not JobStatus.COMPLETED

    @invariant()
    def what_was_refused_is_not_there(self) -> None:
        assert self.refused.isdisjoint(self.database.rows)
        assert self.landed <= self.database.rows.keys()

    def teardown(self) -> None:
        """When all goes well again, each job ends, once; and who waits is told of it."""
        for _ in range(400):
            self.sweep()
            for server, each in enumerate(self.servers):
                if not each.member:
                    each.rejoin()
                each.hint(None)  # a heartbeat
                while each.send():
                    pass
                for _ in range(each.local.workers):
                    self.end(server, 0)
                    self.claim(server)
            if all(row.job.ending is not None for row in self.database.rows.values()):
                break
        assert all(row.job.ending is not None for row in self.database.rows.values())
        for each in self.servers:
            while each.send():
                pass
            each.hear()
            told = set(each.store.remote_ends._over)
            for job_id in each.waiters.awaited:
                assert job_id in told, "nobody tells who waits"
        self.what_was_refused_is_not_there()

    # Parts.

    def new_job(self, type_: str, key: IdempotencyKey | None = None) -> Job:
        self.number += 1
        job_id = f"{self.number:04}"
        return Job(id=job_id, type=type_, payload=b"1", created_at=NOON, key=key)

    def hand_in(self, server: int, jobs: list[Job]) -> None:
        ids = {job.id for job in jobs}
        self.servers[server].store.submit(
            jobs,
            landed=partial(self.landed.update, ids),
            refused=lambda _: self.refused.update(ids),
        )

    def show(self, server: Server, job: Job) -> None:
        stored = self.database.rows[job.id].job
        assert stored.ending == job.ending, "shown before it was recorded"
        assert job.id not in self.shown, "shown twice"
        self.shown[job.id] = job
        server.waiters.notify(job)

    def some_row(self, number: int) -> Job | None:
        rows = sorted(self.database.rows.items())
        return rows[number % len(rows)][1].job if rows else None

    def take_run(self, server: int, number: int) -> str | None:
        runs = self.runs[server]
        return runs.pop(number % len(runs)) if runs else None

    def owned(self, server: Server) -> set[str]:
        return server.store._fetched.keys() | server.store._running.keys()

    def slack(self, server: Server) -> int:
        """Cut jobs count until they have unwound, and so do those that are fetched again."""
        return len(server.store._cut) + len(server.store._again)


@few_or_many(20, 200)
def test_two_servers_over_one_database(examples: int) -> None:
    run_state_machine_as_test(
        others(SharedStoreMachine),
        settings=settings(max_examples=examples, stateful_step_count=50, deadline=None),
    )
