"""The whole program, cut off or broken at every single step of it: nobody was told a lie."""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import pytest
import trio

from tests.proof.program import (
    CLIENTS,
    CUT_OFF,
    FLAKY,
    Action,
    Asker,
    Client,
    Program,
    for_each_step,
    jobs_of,
    noted,
    run_in_memory,
    run_on_loopback,
    submit,
)
from tests.proof.raising import STORE_CALLS, Calls, Part, only_faults
from tests.proof.share import first_step, soak_width, step_width, swept
from tests.support import Stop
from trio_jobs import Outcome

CANCELLED_REQUESTS: list[Action] = [
    Program.cancel_request,
    Program.cancel_first_request,
    Program.cancel_second_request,
    Program.cancel_third_request,
]
# What can happen at a step.
ACTIONS: list[Action] = [
    Program.cancel_pool,
    *CANCELLED_REQUESTS,
    Program.cancel_program,
    Program.fail_in_the_pool,
    Program.fail_in_the_request,
    Program.signal,
    Program.fail_beside_the_program,
    Program.signal_twice,
    Program.fail_in_the_front_door,
]

# What an operator can do at one.
CHANGES: list[Action] = [
    Program.more_workers,
    Program.fewer_workers,
    Program.other_workers,
    Program.pause_types,
    Program.pause_intake,
]

pytestmark = pytest.mark.usefixtures("quiet")

EVERY_PART = {Part.REQUEST, Part.HANDLER, Part.WORKER, Part.REST}


def check_ending(program: Program, action: Action) -> None:
    """The program has ended as it must after this."""
    if program.harm.part is not None:
        check_ending_after_raising(program, action)
        return
    assert program.fault is None
    assert program.names.failures == [] or action is Program.cancel_pool
    if action in CANCELLED_REQUESTS:
        check_service_went_on(program)
    elif action is Program.cancel_pool:
        # It is a failure unless it was draining, when what is left says it all.
        draining = program.stop.at is not None
        assert program.status == 1 or (draining and program.status == bool(program.names.events))
    elif action is Program.cancel_program:
        # None if it came before the end; over real sockets the grace period may be over by then.
        ended = 0 if program.in_memory else int(bool(program.names.events))
        assert program.status in (None, ended)
    elif (
        program.force_requested or not program.in_memory
    ):  # a grace period by the real clock can end
        assert program.status == bool(program.names.events)
    else:
        # A job that has failed when it is asked to stop does not come back; it is named.
        assert program.status == bool(program.names.events)
        left = {"jobs_waiting"}
        if action is Program.pause_types:  # one that was resumed too late to get a slot
            left |= {"jobs_held", "jobs_not_started"}
        assert {event for event, _ in program.names.events} <= left
        assert program.took < 10  # as long as the jobs need, not as long as they may


def check_service_went_on(program: Program) -> None:
    """But for one request, or one job, nothing has come of it."""
    assert program.fault is None
    assert program.names.failures == []
    assert program.status == bool(program.names.events)
    if program.in_memory and not program.force_requested:
        # Among the requests is the one that cancels the job without an end.
        assert program.names.ids("jobs_not_started") == []
        # A job that fails once the stop has begun does not come back; it is named.
        assert set(program.names.ids("jobs_waiting")) <= {
            jobs_of(program)[name].id for name in FLAKY & jobs_of(program).keys()
        }
        interrupted = program.names.ids("jobs_interrupted")
        assert not interrupted or interrupted == [jobs_of(program)["b3"].id]


def check_ending_after_raising(program: Program, action: Action) -> None:
    """An error ends what it should, and is to be found in the log, or in what `main` raises."""
    part, failures = program.harm.part, program.names.failures
    if part is Part.HANDLER:
        check_service_went_on(program)
        ending = next(  # unless it has been deleted
            (job.ending for job in jobs_of(program).values() if job.id == program.harm.job_id), None
        )
        assert ending is None or ending.outcome is not Outcome.SUCCEEDED
    elif part is Part.REQUEST or action is Program.fail_in_the_request:
        check_service_went_on(program)
    elif part is Part.WORKER or action is Program.fail_in_the_pool:
        check_pool_failed(program)
    elif program.fault is not None:
        assert action is not Program.fail_in_the_front_door
        assert only_faults(program.fault)
    else:
        assert action is not Program.fail_beside_the_program
        assert program.status == 1
        assert failures
        assert only_faults(failures[0][1])
        assert action is not Program.fail_in_the_front_door or failures[0][0] == "http_failed"


def check_pool_failed(program: Program) -> None:
    """It has stopped at once, and said why before it named the jobs."""
    assert program.fault is None
    assert program.status == 1
    [(event, error)] = program.names.failures
    assert event == "pool_failed"
    assert only_faults(error)
    assert not program.names.failed_late
    assert program.took < 10  # and not as long as the grace period


def test_scenario_has_everything_in_it() -> None:
    program, _ = run_in_memory(Program.nothing, 0, seed=0)

    check_ending(program, Program.nothing)
    outcomes = {job.ending.outcome for job in jobs_of(program).values() if job.ending is not None}
    assert outcomes == set(Outcome) - {Outcome.INTERRUPTED}  # nothing survives this program
    assert {"i3", "p4"} <= program.told.refused  # the one by a full buffer, the other by the drain
    assert "i1" in program.told.unanswered  # it hung up, and ran
    ending = jobs_of(program)["i1"].ending
    assert ending is not None
    assert ending.outcome is Outcome.TIMED_OUT
    assert program.ended["i1"] == 1  # a thread goes on
    assert (program.began["p2"], program.ended["p2"]) == (2, 1)
    assert 1 < len(program.ended.keys() & {f"s{n}" for n in range(9)}) < 9  # thread, work, …


def test_run_is_the_same_every_time() -> None:
    runs = [run_in_memory(Program.cancel_pool, 100, seed=7) for _ in range(2)]

    (first, steps), (second, steps_again) = runs
    assert steps == steps_again
    assert first.began == second.began
    assert first.told.accepted.keys() == second.told.accepted.keys()


def test_grace_period_counts_from_the_signal_though_nobody_could_act_on_it_then() -> None:
    async def leave_a_job_and_signal(program: Program, asker: Asker) -> None:
        await submit(program, asker, "endless", "e1")
        program.stop.request(at=time.monotonic() - 50)  # the loop was blocked for so long

    program, _ = run_in_memory(Program.nothing, 0, seed=0, clients=[leave_a_job_and_signal])

    assert program.status == 1
    assert program.took == pytest.approx(10, abs=5)  # of the 60 that there were; that clock is real


def test_pool_that_ends_by_itself_is_a_failure_also_when_nothing_is_left() -> None:
    async def end_the_pool(program: Program, _: Asker) -> None:
        await trio.sleep(1)
        program.cancel_pool()

    program, _ = run_in_memory(Program.nothing, 0, seed=0, clients=[end_the_pool])

    assert (program.status, program.names.events) == (1, [])


def test_who_waits_for_a_job_is_answered_when_the_pool_is_cut_off() -> None:
    async def wait_for_a_job(program: Program, asker: Asker) -> None:
        await submit(program, asker, "endless", "e1", wait=50)

    async def insist(program: Program, _: Asker) -> None:
        await trio.sleep(1)
        program.signal_twice()

    program, _ = run_in_memory(Program.nothing, 0, seed=0, clients=[wait_for_a_job, insist])

    assert program.told.accepted.keys() == {"e1"}
    assert program.status == 1


def test_who_waits_is_answered_and_http_closes_while_the_unfinished_are_being_named() -> None:
    """Naming may take as long as closing: one after the other could be more than the hard limit."""
    closed = trio.Event()

    async def name_slowly(function: Callable[[], object], **_: object) -> object:
        await closed.wait()
        return function()

    async def wait_for_a_job(program: Program, asker: Asker) -> None:
        await submit(program, asker, "endless", "e1", wait=50)
        while await asker.ask("GET", "/health") is not None:  # noqa: ASYNC110 - nothing tells
            await trio.sleep(1)
        closed.set()

    async def insist(program: Program, _: Asker) -> None:
        await trio.sleep(1)
        program.signal_twice()

    with mock.patch("tests.proof.program.in_place_of_a_thread", name_slowly):
        program, _ = run_in_memory(Program.nothing, 0, seed=0, clients=[wait_for_a_job, insist])

    assert program.status == 1
    [(_, ids)] = program.names.events
    assert ids == program.told.accepted["e1"]


def test_jobs_are_named_also_where_no_thread_can_be_had() -> None:
    async def no_thread(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("can't start new thread")

    async def insist(program: Program, asker: Asker) -> None:
        await submit(program, asker, "endless", "e1")
        program.signal_twice()

    with mock.patch("tests.proof.program.in_place_of_a_thread", no_thread):
        program, _ = run_in_memory(Program.nothing, 0, seed=0, clients=[insist])

    assert program.status == 1
    [(_, ids)] = program.names.events
    assert ids == program.told.accepted["e1"]


@pytest.mark.parametrize("draining", [True, False])
def test_failure_of_the_front_door_arms_the_hard_limit(*, draining: bool) -> None:
    armed: list[bool] = []

    async def break_the_front_door(program: Program, asker: Asker) -> None:
        if draining:
            await submit(program, asker, "work", "w1")
        else:  # the pool has ended by then
            program.signal()
            await asker.ask("GET", "/health")  # holds HTTP's end up
        program.fail_in_the_front_door()

    def note(_: Stop, *, draining: bool = False) -> None:
        armed.append(draining)

    with mock.patch.object(Stop, "arm_after_crash", note):
        run_in_memory(Program.nothing, 0, seed=0, clients=[break_the_front_door])

    assert armed == [draining]


def at_every_step(
    action: Action,
    *,
    seed: int,
    clients: Sequence[Client] = CLIENTS,
    first: int = 1,
    every: int = 1,
) -> set[Part]:
    """Run it once for each step that it has; where in the program something was raised."""
    run_at = partial(run_and_check, action, seed=seed, clients=clients)
    return for_each_step(run_at, first=first, every=every)


def run_and_check(
    action: Action, step: int, *, seed: int, clients: Sequence[Client] = CLIENTS
) -> tuple[Program, int]:
    """Run it, and check also how it has ended; a failure says what leads to it again."""
    program, steps = run_in_memory(action, step, seed=seed, clients=clients)
    with noted(f"seed {seed}, {action.__name__} at step {step} of {steps}"):
        check_ending(program, action)
    return program, steps


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_whatever_step_it_happens_at_every_job_is_accounted_for(action: Action) -> None:
    at_every_step(action, seed=0, first=first_step(action.__name__), every=step_width())


@pytest.mark.parametrize("action", CHANGES, ids=lambda action: action.__name__)
def test_whenever_an_operator_changes_it_every_job_is_accounted_for(action: Action) -> None:
    at_every_step(action, seed=0, first=first_step(action.__name__), every=step_width())


@pytest.mark.parametrize("clients", [CLIENTS, CUT_OFF], ids=["drain", "cut off"])
def test_whichever_task_raises_every_job_is_accounted_for(clients: Sequence[Client]) -> None:
    # A wider sweep does not come to each part of the program.
    every = min(step_width(), 4)
    first = 1 + first_step(f"fail_in_the_task {clients is CUT_OFF}") % every

    raised_in = at_every_step(
        Program.fail_in_the_task, seed=0, clients=clients, first=first, every=every
    )

    assert raised_in == EVERY_PART


@pytest.mark.parametrize("clients", [CLIENTS, CUT_OFF], ids=["drain", "cut off"])
@pytest.mark.parametrize("afterwards", [False, True])
def test_whichever_call_fails_every_job_is_accounted_for(
    *, afterwards: bool, clients: Sequence[Client]
) -> None:
    first = first_step(f"call {afterwards} {clients is CUT_OFF}")

    failed = at_every_call(
        seed=0, afterwards=afterwards, clients=clients, first=first, every=step_width()
    )

    released = {"release"} if clients is CLIENTS else set()
    assert failed == {*STORE_CALLS, "process"} - released


def at_every_call(
    *, seed: int, afterwards: bool, clients: Sequence[Client], first: int = 1, every: int = 1
) -> set[str]:
    """Let each call of the store, and of what processes jobs, fail in a run; the names of those.

    A sweep that takes only each so many-th call takes the first of each name too.
    """
    failed = set[str]()
    made = run_and_check_call(Calls(), seed=seed, clients=clients)
    for failing, name in enumerate(made, 1):
        if (failing - first) % every and name in made[: failing - 1]:
            continue
        calls = Calls(failing, afterwards=afterwards)
        run_and_check_call(calls, seed=seed, clients=clients)
        if calls.harm.call is not None:  # none fails afterwards that was cancelled
            failed.add(calls.harm.call)
    return failed


def run_and_check_call(calls: Calls, *, seed: int, clients: Sequence[Client]) -> list[str]:
    """The names of the calls that there were; a failure says which one failed."""
    with noted(f"call {calls.failing}, {calls.harm}"):
        program, _ = run_in_memory(Program.nothing, 0, seed=seed, calls=calls, clients=clients)
        check_ending(program, Program.nothing)
    return calls.made


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 7))
@pytest.mark.parametrize("clients", [CLIENTS, CUT_OFF], ids=["drain", "cut off"])
@pytest.mark.parametrize(
    "action", [Program.fail_in_the_task, Program.exit_in_the_task], ids=lambda each: each.__name__
)
def test_whichever_task_raises_the_same_holds_under_more_seeds(
    action: Action, clients: Sequence[Client], seed: int
) -> None:
    raised_in = at_every_step(action, seed=seed, clients=clients, every=soak_width(most=3))

    assert raised_in == EVERY_PART


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 7))
@pytest.mark.parametrize("clients", [CLIENTS, CUT_OFF], ids=["drain", "cut off"])
@pytest.mark.parametrize("afterwards", [False, True])
def test_whichever_call_fails_the_same_holds_under_more_seeds(
    *, afterwards: bool, clients: Sequence[Client], seed: int
) -> None:
    at_every_call(seed=seed, afterwards=afterwards, clients=clients, every=soak_width())


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 7))
@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_at_every_step_the_same_holds_under_more_seeds(action: Action, seed: int) -> None:
    at_every_step(action, seed=seed, every=soak_width())


# Over sockets only the connection of a request is known.
OVER_SOCKETS: list[Action] = [
    Program.fail_in_the_task,
    Program.exit_in_the_task,
    *(each for each in ACTIONS if each not in (*CANCELLED_REQUESTS, Program.fail_in_the_request)),
    Program.cancel_request,
]


@pytest.mark.parametrize("step", [40, 120, 200])
def test_the_same_holds_over_real_sockets(step: int) -> None:
    for action in OVER_SOCKETS:
        run_and_check_on_loopback(action, step, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("action", OVER_SOCKETS, ids=lambda action: action.__name__)
def test_at_every_step_the_same_holds_over_real_sockets(action: Action) -> None:
    step, most = 0, 1  # a run that is cut short has fewer
    while step < most:
        step += soak_width()
        most = max(most, run_and_check_on_loopback(action, step, seed=step))


def run_and_check_on_loopback(action: Action, step: int, *, seed: int) -> int:
    """Run it, and check how it has ended, as far as the clock lets that be known."""
    program, steps = run_on_loopback(action, step, seed=seed)
    with noted(f"seed {seed}, {action.__name__} at step {step} of {steps}"):
        check_ending(program, action)
    return steps


@pytest.mark.parametrize("seed", [100 + number for number in swept("orders", 15)])
def test_every_order_of_the_tasks_accounts_for_every_job(seed: int) -> None:
    check_one_order(seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(200, 1200))
def test_a_thousand_orders_of_the_tasks_account_for_every_job(seed: int) -> None:
    check_one_order(seed)


def check_one_order(seed: int) -> None:
    """One schedule of the whole, and one that something happens in; the seed decides what."""
    _, steps = run_and_check(Program.nothing, 0, seed=seed)
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    run_and_check(chance.choice(ACTIONS), chance.randrange(steps), seed=seed)
