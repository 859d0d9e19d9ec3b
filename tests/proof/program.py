"""The whole program inside one Trio run, with its clients; and something happens at one step of it.

`main` runs as it is, over an HTTP server in memory (`memory`) or the real one on loopback
(`loopback`). In memory, under a mock clock, a run is the same every time: the scheduler's seed
and the number of a step name a moment exactly. An instrument sees each step of each task, and does
what the test wants at the one that it wants.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar
from unittest import mock

import outcome
import trio
from trio._core._thread_cache import THREAD_CACHE
from trio.testing import MockClock

from tests.proof.accounts import Told
from tests.proof.raising import (
    Calls,
    FaultError,
    FaultExit,
    Harm,
    Part,
    awaited_in,
    can_raise,
    lineage,
    raise_in,
)
from tests.proof.talking import body_bytes, talking
from tests.support import (
    Config,
    HandlerRegistry,
    HttpSettings,
    Logs,
    MemoryStore,
    PoolSettings,
    Stop,
    current_job_id,
)
from trio_jobs import Handler, Job, JobStatus, Outcome, RetryPolicy
from trio_jobs.main import main
from trio_jobs.opened_store import StoreInMemory
from trio_jobs.pool.wall_clock import utc_now
from trio_jobs.pool.wiring import make_pool
from trio_jobs.resources import Resources
from trio_jobs.server.sockets import Listeners, bind_sockets
from trio_jobs.settings import LoggingSettings
from trio_jobs.testing import asgi_client
from trio_jobs.testing.schedules import seeded_schedule
from trio_jobs.testing.steps import At

if TYPE_CHECKING:
    from trio_jobs.pool.intake import Intake
    from trio_jobs.pool.paused_types import PausedTypes
    from trio_jobs.pool.pool import Pool
    from trio_jobs.pool.schedule import Schedule
    from trio_jobs.pool.unfinished import Line
    from trio_jobs.server.connection import ClientConnection

WORKERS = 3
BUFFER = 4
THREADS = {"thread", "limited_thread"}
FLAKY = {"p2", "b2"}  # these come back once

# One task for each connection, also for the one in memory that warms up.
REQUEST_TASKS = ("MemoryDoor._answer", "Listener._serve", "ClientConnection.run")

CONFIG = Config(
    pool=PoolSettings(workers=WORKERS, buffer_size=BUFFER, grace_period=60),
    http=HttpSettings(graceful_timeout=1),
    logging=LoggingSettings(slow_step=0),
)


class Answered(Protocol):
    """What both kinds of clients get."""

    @property
    def status(self) -> int: ...
    def json(self) -> Any: ...  # noqa: ANN401 - it is JSON


class Asker(Protocol):
    """A client: `tests.proof.talking.Talker`, or one in memory."""

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answered | None: ...


class Names(Logs):
    """Keeps what `main` writes as its last lines; everything else goes to logging as usual.

    Attributes:
        events: Those lines: an event and the ids.
        failures: The errors that `main` has logged before, each with its event.
        failed_late: Whether it has logged one after it had begun with those lines.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.failures: list[tuple[str, BaseException]] = []
        self.failed_late = False

    def note_failure(self, event: str, *, exc_info: BaseException) -> None:
        """Stand where `main` logs an error that it has not expected."""
        self.failures.append((event, exc_info))
        self.failed_late = self.failed_late or bool(self.events)

    def write_final(
        self,
        logger: str,
        level: int,
        events: Iterable[tuple[str, Mapping[str, object]]],
        *,
        seconds: float,
        last: Callable[[], Iterable[Line]] = tuple,
    ) -> None:
        """Take down the event and the ids."""
        self.events += [(event, str(fields["job_ids"])) for event, fields in events]
        assert not [*last()], "there is time for all names"

    def note_unfinished(self, event: str, *, extra: Mapping[str, object]) -> None:
        """Stand where `open_jobs` names them in the log."""
        self.events.append((event, str(extra["job_ids"])))

    def ids(self, event: str) -> list[str]:
        """All that were named with this event."""
        return ids_in(self.events, event)


def ids_in(lines: Iterable[tuple[str, str]], event: str) -> list[str]:
    """All that these lines name with this event."""
    return [job_id for name, ids in lines if name == event for job_id in ids.split(",")]


@dataclass(slots=True)
class Program:
    """One run: its parts, as an instrument finds them, and what became of it.

    Attributes:
        unit: Seconds that stand for one second of the scenario.
        in_memory: Whether threads are stood in for (`in_place_of_a_thread`).
        config: For `main`.
        took: Seconds that `main` took, by Trio's clock.
        status: What `main` returned; None if it was cancelled.
        fault: What came out of `main` instead.
        pool: The pool's nursery, once there is one.
        requests: The nurseries around the requests that are going on; the one
            that has begun last is last.
        connection: The connection that was accepted last, if there are any.
        http: The HTTP server's nursery.
        whole: The nursery that `main` runs in.
        main_task: The task that `main` runs in, while it does.
        clients: The nursery of the clients.
        core: The parts around the pool.
        harm: What a test has raised.
    """

    unit: float
    in_memory: bool
    config: Config = CONFIG
    names: Names = field(default_factory=Names)
    told: Told = field(default_factory=Told)
    began: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    facts: list[Callable[[Program], None]] = field(default_factory=list)
    force_requested: float = 0.0
    began_at: float = 0.0
    took: float = 0.0
    opened: trio.Event = field(default_factory=trio.Event)
    stop: Stop = field(init=False)
    status: int | None = None
    fault: BaseException | None = None
    store: MemoryStore | None = None
    send: trio.MemorySendChannel[str] | None = None
    pool: trio.Nursery | None = None
    requests: list[trio.Nursery] = field(default_factory=list)
    connection: ClientConnection | None = None
    http: trio.Nursery | None = None
    whole: trio.Nursery | None = None
    main_task: trio.lowlevel.Task | None = None
    clients: trio.Nursery | None = None
    core: Pool | None = None
    harm: Harm = field(default_factory=Harm)

    def __post_init__(self) -> None:
        self.stop = Stop(
            self.config.pool,
            self.config.http,
            clock=lambda: time.monotonic() + self.force_requested,
        )

    def make_pool(
        self,
        handlers: HandlerRegistry,
        send: trio.MemorySendChannel[str],
        store: MemoryStore,
        *settings: Any,  # noqa: ANN401 - as `make_pool`
        **more: Any,  # noqa: ANN401 - as `make_pool`
    ) -> Pool:
        """Stand where the parts are made, and keep them."""
        self.send = send
        self.store = store
        self.core = make_pool(handlers, send, store, *settings, **more)
        return self.core

    # What can happen at a step.

    def nothing(self) -> None:
        """Let it run as it is."""

    def cancel_pool(self) -> None:
        cancel(self.pool)

    def fail_in_the_pool(self) -> None:
        self.fail_in(self.pool)

    def cancel_request(self) -> None:
        cancel(*self.requests[-1:])
        if self.connection is not None:
            self.connection._http.answering.cancel()

    # The last one may be another one: between them these reach each of four.

    def cancel_first_request(self) -> None:
        cancel(*self.requests[:1])

    def cancel_second_request(self) -> None:
        cancel(*self.requests[1:2])

    def cancel_third_request(self) -> None:
        cancel(*self.requests[2:3])

    def fail_in_the_request(self) -> None:
        for nursery in self.requests[-1:]:
            self.fail_in(nursery)

    def cancel_program(self) -> None:
        cancel(self.whole)

    def fail_beside_the_program(self) -> None:
        self.fail_in(self.whole)

    def fail_in_the_front_door(self) -> None:
        self.fail_in(self.http)

    def fail_in_the_task(self) -> None:
        """Have the task whose step it is raise, whichever it is, unless it is none of ours."""
        task = trio.lowlevel.current_task()
        part = self.part_of(task)
        if part is None or not can_raise(task):
            return
        if part is Part.HANDLER:
            self.harm.job_id = task.context[current_job_id]
        self.harm.lost += on_its_way(task)
        raise_in(task, self.harm.error(part))

    def exit_in_the_task(self) -> None:
        """The same with an error that is no `Exception`."""
        self.harm.kind = FaultExit
        self.fail_in_the_task()

    def fail_in(self, nursery: trio.Nursery | None) -> None:
        """Have a new task of this nursery raise, if it is there, and open."""

        async def fail() -> NoReturn:
            raise self.harm.error(Part.BESIDE)

        if nursery is not None:
            with contextlib.suppress(RuntimeError):  # closed
                nursery.start_soon(fail)

    # What an operator can do at a step.

    def more_workers(self) -> None:
        if self.core is not None:
            self.core.worker_tasks.number += 3
            self.core.worker_tasks._approach()

    def fewer_workers(self) -> None:
        if self.core is not None:
            self.core.worker_tasks.number = 1
            self.core.worker_tasks._approach()

    def other_workers(self) -> None:
        """Let all but one leave, and ask for as many again."""
        if self.core is not None:
            number = self.core.worker_tasks.number
            self.fewer_workers()
            self.core.worker_tasks.number = number
            self.core.worker_tasks._approach()

    def pause_types(self) -> None:
        """Pause all types, and resume them a little later; by then the stop may have begun."""

        async def resume(paused: PausedTypes) -> None:
            await trio.sleep(self.unit / 2)
            await paused.resume(paused.types)

        if self.core is not None and self.clients is not None:
            self.core.paused.pause(self.core.paused.select(None))
            self.clients.start_soon(resume, self.core.paused)

    def pause_intake(self) -> None:
        """Pause the intake, and resume it a little later."""

        async def resume(intake: Intake) -> None:
            await trio.sleep(self.unit / 2)
            intake.resume()

        if self.core is not None and self.clients is not None:
            self.core.admission.intake.pause()
            self.clients.start_soon(resume, self.core.admission.intake)

    def part_of(self, task: trio.lowlevel.Task) -> Part | None:
        """What of the program a task belongs to; None for a client, or Trio's own."""
        tasks = list(lineage(task))
        if self.main_task not in tasks or any(
            each.parent_nursery is self.clients for each in tasks
        ):
            return None
        for each in tasks:
            if each.name.endswith("Lifespan.handle_lifespan"):
                return None  # Hypercorn takes an error to say that an application has no lifespan
            if each.name.endswith(REQUEST_TASKS):
                return Part.REQUEST
            if each.name == "schedule":
                return Part.WORKER
            if each.name.startswith("worker-"):
                is_handler = any(
                    caller == "JobExecutor._process" and called != "checkpoint"  # its own
                    for caller, called in itertools.pairwise(awaited_in(task))
                )
                return Part.HANDLER if is_handler else Part.WORKER
        return Part.REST

    def signal(self) -> None:
        """Ask it to stop, unless it has been asked."""
        if self.stop.at is None:
            self.stop.request()

    def signal_twice(self) -> None:
        """Insist on it."""
        self.signal()
        self.force_requested += 1  # second: later than a repetition that does not count
        self.stop.request()

    # The users' functions.

    async def work(self, token: str) -> str:
        self.began[token] += 1
        await trio.sleep(self.unit)
        self.ended[token] += 1
        return token

    async def fail(self, token: str) -> NoReturn:
        self.began[token] += 1
        await trio.sleep(self.unit)
        self.ended[token] += 1
        raise SystemExit(token)

    async def flaky(self, token: str) -> NoReturn:
        self.began[token] += 1
        await trio.sleep(self.unit / 8)
        if self.began[token] == 1:
            raise ValueError(token)  # it comes back
        self.ended[token] += 1
        raise SystemExit(token)  # it does not

    async def endless(self, token: str) -> None:
        self.began[token] += 1
        await trio.sleep_forever()

    def in_thread(self, token: str) -> str:
        self.began[token] += 1
        if not self.in_memory:
            time.sleep(self.unit)
        self.ended[token] += 1
        return token

    async def careful(self, token: str) -> None:
        self.began[token] += 1
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.unit)  # to clean up; nothing ends before it has

    def once_more(self) -> RetryPolicy:
        """A second attempt for a job that fails by itself, and not by what a test raises."""
        return RetryPolicy(
            attempts=2, backoff="constant", base=self.unit / 8, jitter=False, on=[ValueError]
        )

    def handlers(self) -> HandlerRegistry:
        return HandlerRegistry(
            {
                "work": Handler.of(self.work),
                "fail": Handler.of(self.fail),
                "flaky": Handler.of(self.flaky, retry=self.once_more()),
                "endless": Handler.of(self.endless),
                "careful": Handler.of(self.careful),
                "limited": Handler.of(self.endless, timeout=2 * self.unit),
                "thread": Handler.of(self.in_thread),
                "limited_thread": Handler.of(self.in_thread, timeout=self.unit / 2),
            }
        )


def cancel(*nurseries: trio.Nursery | None) -> None:
    """Cancel the scopes of those nurseries that there are."""
    for nursery in nurseries:
        if nursery is not None:
            nursery.cancel_scope.cancel()


class Steps(At):
    """Finds the parts of a program, and does something just before one of its steps.

    After each step it looks whether the channel and the store agree.

    Attributes:
        disagreement: The first step after which they did not agree, and in what.
    """

    def __init__(self, program: Program, step: int, action: Callable[[], None]) -> None:
        super().__init__(step, action)
        self._program = program
        self._workers: list[trio.lowlevel.Task] = []
        self.disagreement: str | None = None

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        if task.name.startswith("worker-"):
            self._workers.append(task)
        if task.name == "worker-0":
            self._program.pool = task.parent_nursery
        elif task.name.endswith("Listener._serve"):
            self._program.connection = inspect.getcoroutinelocals(task.coro)["connection"]
        elif task.name.endswith("Listener._accept"):
            self._program.http = task.parent_nursery
            self._program.opened.set()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        send, store = self._program.send, self._program.store
        if send is None or store is None or self.disagreement is not None:
            return
        channel = send._state
        if not channel.open_receive_channels:
            return  # the last one to go has emptied it
        pending = [
            job.id
            for job in MemoryStore.page_nowait(
                store, limit=1000
            )  # not the one that a test lets fail
            if job.status is JobStatus.PENDING and job.id not in store._released
        ]
        # A job that waits for its next attempt is in the schedule instead.
        core = self._program.core
        waiting = [] if core is None else ids_of(core.schedule)
        if set(waiting) & set(channel.data):
            self.disagreement = f"after step {self.steps}: {waiting} wait, {list(channel.data)} too"
        pending = [job_id for job_id in pending if job_id not in waiting]
        if list(channel.data) == pending:
            return
        # An id may also be on its way to the one worker that gets it; and what a test has raised
        # may have taken one along, or the record of one.
        harm = self._program.harm
        handed = [job_id for worker in self._workers for job_id in on_its_way(worker)] + harm.lost
        ids_there = [*handed, *channel.data]
        if sorted(set(ids_there) - harm.without_record) != pending or len(set(ids_there)) != len(
            ids_there
        ):
            self.disagreement = (
                f"after step {self.steps}: {list(channel.data)} in the channel, {handed} handed"
                f" over, {pending} pending"
            )


def ids_of(schedule: Schedule) -> list[str]:
    """The jobs that wait in a schedule."""
    return [*schedule._delays._times, *schedule._dates._times, *schedule._due]


def on_its_way(worker: trio.lowlevel.Task) -> list[str]:
    """The id that the channel has given to this worker, which has not got it yet."""
    sent = worker._next_send
    if isinstance(sent, outcome.Value) and isinstance(sent.value, str):
        return [sent.value]  # it was waiting
    for frame, _ in worker.iter_await_frames():
        if frame.f_code.co_qualname == "MemoryReceiveChannel.receive":
            return [frame.f_locals["value"]] if "value" in frame.f_locals else []  # at a checkpoint
    return []


Run = TypeVar("Run", bound=Program)
Action = Callable[[Program], None]
Client = Callable[[Program, Asker], Awaitable[None]]

# The clients of the scenario. -------------------------------------------------------------------


async def patient(program: Program, asker: Asker) -> None:
    """Jobs of three endings, one of which fails and comes back; waits for one, and repeats it.

    Comes back during the drain.
    """
    await submit(program, asker, "limited", "p1")
    await submit(program, asker, "flaky", "p2")
    if await submit(program, asker, "work", "p3", wait=10, keyed=True) is None:
        await submit(program, asker, "work", "p3", keyed=True)
    listing = await ask(program, asker, "GET", "/jobs")
    if listing is not None:
        assert {job["status"] for job in listing.json()} <= set(JobStatus)
    await trio.sleep_until(program.began_at + 3.2 * program.unit)
    await submit(program, asker, "work", "p3", keyed=True)
    await submit(program, asker, "work", "p4", wait=5)  # by then it is shutting down


async def thorough(program: Program, asker: Asker) -> None:
    """A batch, a cancel, a wait for that, a second look, a deletion."""
    await submit_batch(program, asker, ["b1", "b2"])
    job_id = await submit(program, asker, "careful", "b3")
    if job_id is not None:
        await trio.sleep(program.unit / 2)
        path, headers = f"/jobs/{job_id}/cancel", {"Prefer": "wait=10"}
        answer = await ask(program, asker, "POST", path, headers=headers)
        if answer is not None and program.harm.job_id == job_id:
            assert answer.status in (200, 409), answer.status  # it has failed before
        elif answer is not None:
            assert answer.status in (200, 202), answer.status
            program.facts.append(partial(was_cancelled, job_id=job_id, status=answer.status))
    first = program.told.accepted.get("b1")
    if first is not None:
        answer = await ask(program, asker, "DELETE", f"/jobs/{first}")
        if answer is not None:
            assert answer.status in (204, 409)
            program.facts.append(partial(is_there, job_id=first, there=answer.status != 204))


async def streaming(program: Program, asker: Asker) -> None:
    """More lines than there is room for; the last ones come when it is shutting down."""
    await trio.sleep(1.7 * program.unit)
    tokens = [f"s{n}" for n in range(9)]
    program.told.unanswered.update(tokens)
    lines = "\n".join(
        json.dumps({"type": job_type, "payload": token})
        for job_type, token in zip(itertools.cycle(["thread", "work"]), tokens, strict=False)
    )
    answer = await ask(program, asker, "POST", "/jobs/stream", lines.encode())
    accepted = None
    if answer is not None:
        assert answer.status in (201, 503), answer.status
        accepted = answer.json()["accepted"]
        # All may be in when it shuts down; it does not know then that they are all.
        assert accepted == len(tokens) or answer.status == 503
    program.facts.append(partial(these_are_in, tokens=tokens, accepted=accepted))


async def impatient(program: Program, asker: Asker) -> None:
    """Gives up while it waits for its job."""
    with trio.move_on_after(program.unit / 2):
        await submit(program, asker, "limited_thread", "i1", wait=10)
    await submit(program, asker, "fail", "i2")
    await submit_batch(program, asker, ["i3", "i4", "i5", "i6"])  # too many by now


async def operator(program: Program, _: Asker) -> None:
    """Asks it to stop."""
    await trio.sleep(3 * program.unit)
    program.signal()


async def insistent(program: Program, _: Asker) -> None:
    """Does not wait for the jobs."""
    await trio.sleep(2.5 * program.unit)
    program.signal_twice()


WORKING: list[Client] = [patient, thorough, streaming, impatient]
CLIENTS = [*WORKING, operator]
CUT_OFF = [*WORKING, insistent]


async def ask(
    program: Program,
    asker: Asker,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> Answered | None:
    """An answer that says what has become of the request.

    None is also for the one to a request that something was raised in: like none at all, it leaves
    open whether the job is in.
    """
    answer = await asker.ask(method, path, body, headers)
    if answer is not None and answer.status == 500:
        assert program.harm.part in (Part.REQUEST, Part.BESIDE), "nothing was raised there"
        return None
    return answer


async def submit(
    program: Program,
    asker: Asker,
    job_type: str,
    token: str,
    *,
    wait: int | None = None,
    keyed: bool = False,
) -> str | None:
    """Submit a job, and take down what comes of it; its id, if it is in.

    With a key it may be submitted again: that is the same job, whether or not that is known.
    """
    told = program.told
    told.unanswered.add(token)
    headers = {} if wait is None else {"Prefer": f"wait={wait}"}
    if keyed:
        headers["Idempotency-Key"] = token
    body = {"type": job_type, "payload": token}
    answer = await ask(program, asker, "POST", "/jobs", body, headers)
    if answer is None:
        return None
    told.unanswered.discard(token)
    if answer.status != 201:
        assert answer.status in (429, 503), answer.status
        assert token not in told.accepted
        told.refused.add(token)
        return None
    job = answer.json()
    told.refused.discard(token)
    assert told.accepted.setdefault(token, job["id"]) == job["id"]
    program.facts.append(partial(became, told=job))
    return str(job["id"])


async def submit_batch(program: Program, asker: Asker, tokens: list[str]) -> None:
    """Submit all of these, or none."""
    told = program.told
    told.unanswered.update(tokens)
    body = [{"type": "work", "payload": token} for token in tokens]
    answer = await ask(program, asker, "POST", "/jobs/batch", body)
    if answer is None:
        program.facts.append(partial(all_or_none, tokens=tokens))
        return
    told.unanswered.difference_update(tokens)
    if answer.status == 201:
        told.accepted.update(zip(tokens, (job["id"] for job in answer.json()), strict=True))
    else:
        assert answer.status in (429, 503), answer.status
        told.refused.update(tokens)


# What clients were told, compared with what is so in the end. -----------------------------------


def jobs_of(program: Program) -> dict[str, Job]:
    """All jobs in the store, by token."""
    assert program.store is not None
    jobs = program.store.page_nowait(limit=1000)
    by_token = {json.loads(job.payload): job for job in jobs}
    assert len(by_token) == len(jobs), "one was admitted twice"
    return by_token


def became(program: Program, *, told: dict[str, Any]) -> None:
    """A job that was said to have ended has ended like that."""
    if told["status"] == "completed":
        assert program.store is not None
        job = program.store.find_nowait(told["id"])
        assert job.status is JobStatus.COMPLETED
        assert job.ending is not None
        assert job.ending.outcome == told["outcome"]


def was_cancelled(program: Program, *, job_id: str, status: int) -> None:
    assert program.store is not None
    job = program.store.find_nowait(job_id)
    cut_short = job.status is not JobStatus.COMPLETED and status == 202
    assert cut_short or (job.ending is not None and job.ending.outcome is Outcome.CANCELLED)


def is_there(program: Program, *, job_id: str, there: bool) -> None:
    assert program.store is not None
    assert there == any(job.id == job_id for job in program.store.page_nowait(limit=1000))


def these_are_in(program: Program, *, tokens: list[str], accepted: int | None) -> None:
    """As many as it said, the first ones; or any number of the first ones."""
    jobs = jobs_of(program)
    inside = [token in jobs for token in tokens]
    assert inside == sorted(inside, reverse=True)
    assert accepted is None or sum(inside) == accepted


def all_or_none(program: Program, *, tokens: list[str]) -> None:
    jobs = jobs_of(program)
    inside = [token in jobs for token in tokens]
    # A store that fails at one of the records, which it never does, leaves those before it.
    failed = program.harm.call == "add"
    assert inside == sorted(inside, reverse=True) if failed else len(set(inside)) == 1


def check(program: Program) -> None:
    """What must hold however a run has ended."""
    told = program.told
    if program.store is None or program.send is None or program.core is None:
        assert not told.accepted  # the program ended while its parts were made
        return
    jobs = jobs_of(program)
    unfinished = program.store.unfinished()
    released, queued = unfinished.ids
    waiting = [job.id for job in unfinished.waiting]
    deleted = told.accepted.keys() - jobs.keys()

    # Each accepted job is there (or was deleted, being completed), in one legal status.
    assert deleted <= {"b1"}
    for token, job_id in told.accepted.items():
        assert token in deleted or jobs[token].id == job_id
    unrecorded = program.harm.unrecorded
    for job in jobs.values():
        # None is left processing, unless the store has failed to record just that one's end.
        assert job.status is not JobStatus.PROCESSING or job.id in unrecorded
    assert not told.refused & jobs.keys()
    assert jobs.keys() <= told.accepted.keys() | told.unanswered

    # Nothing ran twice; what is said not to have begun has not; what has succeeded has run.
    for token, times in program.began.items():
        assert times <= (2 if token in FLAKY else 1)
    for token, job in jobs.items():
        if job.id in waiting:
            assert program.began[token] == 1 == job.attempts
            assert not program.ended[token]
        elif job.id in queued:
            assert not program.began[token]
        elif job.id in released:
            # A thread is left behind, and ends; of others a value that comes at the same moment as
            # the cancellation is not waited for.
            assert not program.ended[token] or job.type in THREADS or job.id in unrecorded
        else:
            assert job.ending is not None
            if job.id == program.harm.job_id:
                continue  # its handler was made to raise, wherever it was
            ended = job.ending.outcome in (Outcome.SUCCEEDED, Outcome.FAILED)
            assert program.ended[token] == (ended or job.type in THREADS)
            attempts = job.attempts if job.type == "flaky" else 1
            assert program.began[token] == attempts or job.ending.outcome is Outcome.CANCELLED

    for fact in program.facts:
        fact(program)
    assert program.send.statistics().open_receive_channels == 0
    # What the log has named; if `main` has raised before that, what its caller will name.
    lines = list(program.names.events)
    if program.status is None and not lines:
        lines = [(event, str(fields["job_ids"])) for event, fields in program.stop.report.lines()]
    assert sorted(ids_in(lines, "jobs_interrupted")) == released  # named type by type
    held = ids_in(lines, "jobs_held")
    waiting = [job_id for job_id in waiting if job_id not in held]
    assert sorted(ids_in(lines, "jobs_waiting")) == waiting
    assert sorted(ids_in(lines, "jobs_not_started") + waiting + held) == queued
    assert program.status is None or program.status == 1 or not released + queued
    check_nothing_is_left(program)


def check_nothing_is_left(program: Program) -> None:
    """Nobody waits for a job or for room, and no job is taken to be running."""
    assert program.core is not None
    waiters = program.core.waiters
    assert (waiters.count, waiters.completions) == (0, {})
    assert not program.core.capacity._fifo.locked()
    assert not program.core.capacity._open_blocks
    assert not program.core.executor.running


# Running it. ------------------------------------------------------------------------------------


class MemoryDoor:
    """Replaces the HTTP server, without sockets: it hands requests to the application."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._app: asgi_client.App | None = None
        self._nursery: trio.Nursery | None = None
        self._requests = 0
        self._emptied = trio.Event()
        self.surprises: list[BaseException] = []

    async def serve(
        self,
        app: asgi_client.App,
        listeners: Listeners,
        settings: HttpSettings,
        _access_control: object,
        *,
        closing: trio.Event,
        task_status: trio.TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
        **_: object,
    ) -> None:
        """What `trio_jobs.server.serve` does."""
        try:
            async with trio.open_nursery() as nursery:
                self._program.http = self._nursery = nursery
                self._app = app
                task_status.started(())
                self._program.opened.set()
                await closing.wait()
                self._app = None
                if self._requests:
                    with trio.move_on_after(settings.graceful_timeout):
                        await self._emptied.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._app = None

    async def exchange(
        self, scope: asgi_client.Message, pieces: list[bytes]
    ) -> asgi_client.Answer | None:
        """One request and its answer; None if it is refused, or cut off."""
        if self._app is None or self._nursery is None:
            return None
        request = MemoryRequest(pieces)
        try:
            self._nursery.start_soon(self._answer, self._app, request, scope)
        except RuntimeError:  # it has failed, and is ending
            return None
        self._requests += 1
        try:
            await request.over.wait()
        finally:
            request.left.set()
        return request.answer()

    async def _answer(
        self, app: asgi_client.App, request: MemoryRequest, scope: asgi_client.Message
    ) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._program.requests.append(nursery)
                try:
                    await app(scope, request.receive, request.send)
                finally:
                    self._program.requests.remove(nursery)
        except* (FaultError, FaultExit, OSError):
            pass  # an error ends one request: the HTTP server has tests of its own for that
        except* Exception as group:  # noqa: BLE001 - kept, and shown by the test
            self.surprises.append(group)
        finally:
            request.over.set()
            self._requests -= 1
            if not self._requests:
                self._emptied.set()


class MemoryRequest:
    """Both ends of a request and its answer."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._messages: list[asgi_client.Message] = []
        self.left = trio.Event()  # the client has
        self.over = trio.Event()  # the server's part is

    async def receive(self) -> asgi_client.Message:
        """ASGI's."""
        await trio.lowlevel.checkpoint()
        if self._pieces:
            body = self._pieces.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._pieces)}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: asgi_client.Message) -> None:
        """ASGI's."""
        await trio.lowlevel.checkpoint()
        if self.left.is_set():
            raise OSError("the client has left")
        self._messages.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.over.set()

    def answer(self) -> asgi_client.Answer | None:
        """What the client has got; None if it is not whole."""
        if not self._messages or self._messages[-1].get("more_body", True):
            return None
        head, *body = self._messages
        return asgi_client.Answer(
            status=head["status"], headers={}, body=b"".join(part["body"] for part in body)
        )


class MemoryAsker:
    """A client without sockets."""

    def __init__(self, door: MemoryDoor) -> None:
        self._door = door

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> asgi_client.Answer | None:
        """One request in pieces, and its answer."""
        data = body_bytes(body)
        half = len(data) // 2
        return await self._door.exchange(
            asgi_scope(method, path, {"content-length": str(len(data)), **(headers or {})}),
            [data[:half], data[half:]],
        )


def asgi_scope(method: str, path: str, headers: Mapping[str, str]) -> asgi_client.Message:
    """What a server tells an application about a request."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (name.lower().encode(), value.encode())
            for name, value in {"host": "localhost", **headers}.items()
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    }


def run_in_memory(
    action: Action,
    step: int,
    *,
    seed: int,
    clients: Sequence[Client] = CLIENTS,
    calls: Calls | None = None,
) -> tuple[Program, int]:
    """Run the scenario without sockets, under a mock clock; see `run`.

    One of the calls may fail.
    """
    calls = calls or Calls()
    program = Program(unit=1.0, in_memory=True, harm=calls.harm)
    door = MemoryDoor(program)

    async def one(client: Client) -> None:
        await program.opened.wait()
        await client(program, MemoryAsker(door))

    async def scenario() -> None:
        async with trio.open_nursery() as program.clients:
            for client in clients:
                program.clients.start_soon(one, client)
            await whole_program(program, Listeners((), None))
            calls.stop()
            program.opened.set()  # nobody waits for a server that did not get so far

    with (
        mock.patch("trio_jobs.http_service.serve", door.serve),
        mock.patch("trio.to_thread.run_sync", in_place_of_a_thread),
        mock.patch("trio_jobs.opened_store.MemoryStore", calls.store),
        mock.patch("trio_jobs.pool.wiring.JobExecutor", calls.executor),
    ):
        steps = run(
            program, scenario, action, step, seed=seed, clock=MockClock(autojump_threshold=0)
        )
    assert not door.surprises, door.surprises
    return program, steps


def run_on_loopback(action: Action, step: int, *, seed: int) -> tuple[Program, int]:
    """Run the scenario over real sockets, by the real clock; see `run`.

    The kernel has a say in what comes when: the same step need not be the same moment again.
    """
    # Short, as a job may be left that nobody cancels.
    pool = PoolSettings(workers=WORKERS, buffer_size=BUFFER, grace_period=0.5)
    program = Program(unit=0.02, in_memory=False, config=dataclasses.replace(CONFIG, pool=pool))

    async def one(client: Client, listeners: Listeners) -> None:
        await program.opened.wait()
        async with talking(listeners.urls[0], Told()) as talker:
            await client(program, talker)

    async def scenario() -> None:
        with contextlib.closing(bind_sockets(["127.0.0.1:0"])) as listeners:
            async with trio.open_nursery() as program.clients:
                for client in CLIENTS:
                    program.clients.start_soon(one, client, listeners)
                await whole_program(program, listeners)
                program.opened.set()

    return program, run(program, scenario, action, step, seed=seed)


async def in_place_of_a_thread(
    function: Callable[..., object],
    *args: object,
    thread_name: str | None = None,
    abandon_on_cancel: bool = False,
    **_: object,
) -> object:
    """`trio.to_thread.run_sync` without a thread: a mock clock would jump ahead while that works.

    A job's takes a second, in which it can be left behind, but not interrupted.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        with trio.CancelScope(shield=not abandon_on_cancel):
            await trio.sleep(1 if thread_name and thread_name.startswith("job ") else 0)
    finally:
        result = function(*args)  # at the end of its time, and also if it is left behind
    return result


async def whole_program(program: Program, listeners: Listeners) -> None:
    """Run `main` to its end, whatever that is."""

    async def body() -> None:
        resources = Resources(
            listeners=listeners,
            stop=program.stop,
            logs=program.names,
            open_store=lambda _: StoreInMemory(program.config.store, now=utc_now),
        )
        ended = await main(program.config, program.handlers(), resources)
        program.status = ended.status

    with (
        mock.patch("trio_jobs.main.make_pool", program.make_pool),
        mock.patch("trio_jobs.lifecycle.log.critical", program.names.note_failure),
    ):
        await run_to_its_end(program, body)


async def run_to_its_end(program: Program, body: Callable[[], Awaitable[None]]) -> None:
    """Run what the clients are clients of, and take down what becomes of it."""
    program.main_task = trio.lowlevel.current_task()
    try:
        async with trio.open_nursery() as program.whole:
            await body()
    except BaseExceptionGroup as group:
        program.fault = group
    program.main_task = None
    program.took = trio.current_time() - program.began_at


def run(
    program: Run,
    scenario: Callable[[], Awaitable[None]],
    action: Callable[[Run], None],
    step: int,
    *,
    seed: int,
    clock: trio.abc.Clock | None = None,
) -> int:
    """Run a scenario, do ``action`` just before its ``step``-th step, and check everything.

    Returns:
        How many steps it had.
    """

    async def guarded() -> None:
        program.began_at = trio.current_time()
        living = trio.lowlevel.current_statistics().tasks_living
        with trio.fail_after(10_000 if clock else 120):
            await scenario()
        assert trio.lowlevel.current_statistics().tasks_living == living

    steps = Steps(program, step, lambda: action(program))
    try:
        with leaving_nothing(program.unit), seeded_schedule(seed):
            trio.run(guarded, clock=clock, instruments=[steps])
        assert steps.disagreement is None, steps.disagreement
        check(program)
    except BaseException as error:
        error.add_note(f"seed {seed}, {action.__name__} at step {step} of {steps.steps}")
        raise
    return steps.steps


def for_each_step(
    run_at: Callable[[int], tuple[Program, int]], *, first: int = 1, every: int = 1
) -> set[Part]:
    """Run something once for each step that it has; where in the program something was raised."""
    step, steps, parts = first - every, first, set[Part | None]()
    while step + every <= steps:
        step += every
        program, steps = run_at(step)
        parts.add(program.harm.part)
    return {part for part in parts if part is not None}


@contextlib.contextmanager
def noted(what: str) -> Iterator[None]:
    """A failure in the block says what leads to it again."""
    try:
        yield
    except BaseException as error:
        error.add_note(what)
        raise


@contextlib.contextmanager
def leaving_nothing(seconds: float = 1.0) -> Iterator[None]:
    """The block leaves no descriptor, and no thread that does not end in so many seconds."""
    open_before, threads_before = open_files(), busy_threads()
    yield
    left = wait_left_behind(threads_before, seconds)
    assert open_files() == open_before
    assert left == []


def open_files() -> list[str]:
    """The descriptors of this process."""
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a listing of numbers


def wait_left_behind(before: list[threading.Thread], seconds: float) -> list[threading.Thread]:
    """Wait for the threads that have begun since; those that do not end, or end their work."""
    for _ in range(500):
        left = [each for each in busy_threads() if each not in before]
        if not left:
            break
        left[0].join(seconds)
    return left


def busy_threads() -> list[threading.Thread]:
    """The threads of this process; Trio keeps its own for a while when they have nothing to do.

    By its list of those, not by their names: one that has been given work, and has not got to it,
    has no other name yet.
    """
    idle = [worker._thread for worker in list(THREAD_CACHE._idle_workers)]
    return [each for each in threading.enumerate() if each not in idle]
