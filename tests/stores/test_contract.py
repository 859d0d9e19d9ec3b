"""The contract of all stores: the same calls have the same answers as in memory.

`StoreMachine` compares the store in memory with a plain model.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from tests.proof.share import few_or_many, others
from tests.stores.contract import InMemory, Subject, in_database, in_file
from tests.support import NOON
from trio_jobs import Ending, IdempotencyKey, Job, JobError, JobStatus, Outcome
from trio_jobs.job import Later, Left
from trio_jobs.pool.ids import Uuid7
from trio_jobs.pool.job_counts import count_jobs
from trio_jobs.pool.job_pages import read_page
from trio_jobs.pool.job_query import JobQuery, Order
from trio_jobs.pool.store import Store, StoreError
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.progress import Progress

Open = Callable[[], AbstractAsyncContextManager[Subject]]

# A job that is to wait in the tests waits for longer than they take.
HOUR = 3_600.0

LEFT = Left(progress=Progress(at=NOON, done=1, total=2, message="half"), lines=("a", "ž"))
ERROR = JobError(type="E", message='"no"\nž')

some_job = st.integers(0, 5)
some_payload = st.sampled_from([b"null", b'{"a": 1, "a": "\\u0000"}', b" [1.0, 10e400]"])
some_ending = st.one_of(
    st.builds(Ending, outcome=st.just(Outcome.SUCCEEDED), result=some_payload),
    st.builds(
        Ending,
        outcome=st.sampled_from([each for each in Outcome if each is not Outcome.SUCCEEDED]),
        error=st.just(ERROR),
        left=st.none() | st.just(LEFT),
    ),
)
some_later = st.builds(
    Later,
    seconds=st.sampled_from([0.0, HOUR]),
    error=st.none() | st.just(ERROR),
    snooze=st.booleans(),
    left=st.none() | st.just(LEFT),
)
some_step = st.one_of(
    st.tuples(
        st.just("submit"),
        some_job,
        st.tuples(
            some_payload,
            st.sampled_from(["email", "ž"]),
            st.none() | st.sampled_from(["k", "l"]),
            st.sampled_from([None, 0.0, HOUR]),
        ),
    ),
    st.tuples(st.just("rerun"), some_job, some_job),
    st.tuples(st.just("claim"), some_job, st.none()),
    st.tuples(st.just("complete"), some_job, some_ending),
    st.tuples(st.just("process"), some_job, some_ending),
    st.tuples(st.just("postpone"), some_job, some_later),
    st.tuples(st.sampled_from(["cancel", "make_due", "delete"]), some_job, st.none()),
)
Step = tuple[str, int, object]

QUERIES = [
    JobQuery(order=order, **filters)
    for order in Order
    for filters in (
        {},
        {"statuses": [JobStatus.PENDING]},
        {"statuses": [JobStatus.PROCESSING, JobStatus.COMPLETED]},
        {"outcomes": [Outcome.FAILED, Outcome.INTERRUPTED]},
        {"types": ["ž"]},
        {"rerun": False},
    )
]


@dataclass(kw_only=True)
class Sides:
    """The store in memory, and another one that has to do the same."""

    memory: InMemory
    subject: Subject
    new_id: Callable[[], str] = field(default_factory=Uuid7)
    job_ids: dict[int, str] = field(default_factory=dict)  # by number; others are unknown

    async def do(self, step: Step) -> None:
        """Do a step on both sides: either both allow it, or both refuse it for the same reason."""
        kind, number, value = step
        match kind:
            case "submit":
                await self.submit(number, *value)  # type: ignore[misc]  # as the strategy says
            case "rerun":
                await self.rerun(number, value)  # type: ignore[arg-type]
            case "process":
                await self.do(("claim", number, None))
                await self.do(("complete", number, value))
            case "cancel":
                await self.ask(lambda store: store.request_cancel(self.id_of(number)))
            case "make_due" if not await self.is_due(number):
                await self.ask(lambda store: store.make_due(self.id_of(number), noted=ignore))
            case "make_due":
                """A job whose time has come waits for it only where no server has fetched it."""
            case "delete":
                await self.ask(lambda store: store.delete(self.id_of(number)))
            case _:
                await self.move(kind, number, value)

    def id_of(self, number: int) -> str:
        return self.job_ids.get(number) or f"01a22956-d6e1-750f-a5eb-{number:012}"

    async def submit(
        self, number: int, payload: bytes, type_: str, key: str | None, delay: float | None
    ) -> None:
        job = self.new_job(type_, payload)
        if key is not None:
            job = replace(job, key=IdempotencyKey(text=key, digest=b"digest"))
        if delay is not None:
            job = replace(job, run_at=job.created_at + timedelta(seconds=delay))
        await self.admit(number, job)

    async def rerun(self, number: int, old: int) -> None:
        await self.admit(number, replace(self.new_job("email", b"null"), rerun_of=self.id_of(old)))

    async def admit(self, number: int, job: Job) -> None:
        allowed = await self.both(lambda side: side.submit(job), same_text=job.rerun_of is not None)
        if allowed:
            self.job_ids[number] = job.id

    async def is_due(self, number: int) -> bool:
        """Whether the job has waited for a time that has come."""
        jobs = await self.memory.store.find_many([self.id_of(number)])
        return any(job.run_at is not None and not waits(job) for job in jobs)

    def new_job(self, type_: str, payload: bytes) -> Job:
        return Job(id=self.new_id(), type=type_, payload=payload, created_at=utc_now())

    async def move(self, kind: str, number: int, value: object) -> None:
        """Make a move, unless a pool would not make it."""
        job_id = self.id_of(number)
        job = next(iter(await self.memory.store.find_many([job_id])), None)
        if job is None:
            return
        is_due = job.status is JobStatus.PENDING and not waits(job)
        if not is_due if kind == "claim" else job.status is not JobStatus.PROCESSING:
            return
        arguments = () if value is None else (value,)
        await self.both(lambda side: getattr(side, kind)(job_id, *arguments))

    async def ask(self, request: Callable[[Store], Awaitable[object]]) -> None:
        """Make a request of a client, of each store of the subject in turn."""
        turn = next(turns)
        await self.both(lambda side: request(side.stores[turn % len(side.stores)]))

    async def both(
        self, act: Callable[[Subject], Awaitable[object]], *, same_text: bool = True
    ) -> bool:
        errors: list[StoreError | None] = []
        for side in (self.memory, self.subject):
            try:
                await act(side)
            except StoreError as error:
                errors.append(error)
            else:
                errors.append(None)
        assert type(errors[0]) is type(errors[1]), errors
        if same_text:
            assert str(errors[0]) == str(errors[1])
        return errors[0] is None

    async def look(self) -> None:
        """All stores show the same jobs."""
        everything = [*map(self.id_of, range(6)), "none"]
        expected = list(map(seen, await self.memory.store.find_many(everything)))
        for store in self.subject.stores:
            assert list(map(seen, await store.find_many(everything))) == expected
            keys = {text: seen(job) for text, job in (await store.find_keys(["k", "l"])).items()}
            assert keys == {
                text: seen(job)
                for text, job in (await self.memory.store.find_keys(["k", "l"])).items()
            }
            for query in QUERIES:
                assert await pages(store, query) == await pages(self.memory.store, query), query
                counts = [await count_jobs(each, query) for each in (store, self.memory.store)]
                if query.order is not Order.NEXT:  # see `pages`
                    assert counts[0].status == counts[1].status, query
                    assert counts[0].outcome == counts[1].outcome, query
                    assert counts[0].type == counts[1].type, query


turns = count()


def ignore(_job_id: str) -> None:
    """Do nothing for a job whose request is recorded."""


def waits(job: Job) -> bool:
    """Whether the job waits for a time that does not come in a test."""
    return job.run_at is not None and job.run_at > utc_now() + timedelta(seconds=HOUR / 2)


def seen(job: Job, *, whole: bool = True) -> dict[str, object]:
    """What clients see of a job, without times that differ, and without one that has come."""
    values = asdict(job)
    for name in ("started_at", "completed_at", "run_at"):
        values[name] = isinstance(values[name], datetime)
    values["run_at"] = waits(job)
    if not whole:
        del values["payload"]
        values["ending"] = job.ending and replace(job.ending, result=None)
    return values


async def pages(store: Store, query: JobQuery) -> list[dict[str, object]]:
    """The jobs of all pages of two; their payloads and results need not be there."""
    found: list[Job] = []
    more = True
    while more:
        after = query.position(found[-1]) if found else None
        jobs, more = await read_page(store, query, after=after, limit=2)
        found += jobs
    if query.order is Order.NEXT:  # it has jobs whose time has come only where they wait
        found = [job for job in found if waits(job)]
    return [seen(job, whole=False) for job in found]


async def play(opens: Open, steps: list[Step]) -> None:
    with trio.fail_after(60):
        async with opens() as subject:
            sides = Sides(memory=InMemory(), subject=subject)
            for step in steps:
                await sides.do(step)
            await sides.look()


@pytest.fixture(params=["file", "database"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens a store without jobs."""
    if request.param == "file":
        numbers = count()
        return lambda: in_file(tmp_path / f"{next(numbers)}.db")
    database = request.getfixturevalue("database")
    return lambda: in_database(database)


@few_or_many(8, 30)
def test_any_calls_have_the_answers_of_the_store_in_memory(opens: Open, examples: int) -> None:
    # Each example opens two servers: to make one shorter would take minutes.
    @others
    @settings(
        max_examples=examples,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(some_step, max_size=30))
    def check(steps: list[Step]) -> None:
        trio.run(play, opens, steps)

    check()
