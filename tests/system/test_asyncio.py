"""Handlers on asyncio and lifespans under the command: starts, failures and stops in order.

The status tells that a stop keeps its bounds: beyond the grace period, ``graceful_timeout`` and one
second, the hard limit would end the process with status 70.
"""

import signal
import sys
from pathlib import Path

import pytest
import trio

from tests.command import PATIENCE, run_command, running_command, started_command
from trio_jobs.handlers.asyncio_task import _UNWINDING_TIME
from trio_jobs.handlers.loop_thread import _CLOSING_TIME
from trio_jobs.shutdown.stop import MARGIN_SECONDS

# Between two signals that count.
APART = 0.3

LOOPS = ["asyncio", "uvloop"]

# `where` names the step at which the lifespan of each place misbehaves, and how.
WORK = """
import asyncio, contextlib, logging, os, sys, threading, time
import trio
from trio_jobs import JobContext

log = logging.getLogger("work")
where = os.environ.get("WHERE", "")
crash = threading.Event()


@contextlib.asynccontextmanager
async def on_asyncio():
    log.info("opening")
    if where == "open hangs":
        await asyncio.sleep(3600)
    if where == "open fails":
        raise ConnectionRefusedError("no database")
    if where == "crashes":
        async with asyncio.TaskGroup() as group:
            group.create_task(fail_on_asyncio())
            yield "state"
    else:
        yield "state"
    log.info("closing")
    if where == "close fails":
        raise OSError("not flushed")
    if where == "close hangs":
        await asyncio.sleep(3600)
    log.info("closed")


async def fail_on_asyncio():
    while not crash.is_set():
        await asyncio.sleep(0.01)
    raise ConnectionResetError("the database is gone")


@contextlib.asynccontextmanager
async def on_trio():
    log.info("opening")
    if where == "open hangs":
        await trio.sleep_forever()
    if where == "open fails":
        raise ConnectionRefusedError("no database")
    if where == "crashes":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_on_trio)
            yield "state"
            nursery.cancel_scope.cancel()
    else:
        yield "state"
    log.info("closing")
    if where == "close fails":
        raise OSError("not flushed")
    if where == "close hangs":
        await trio.sleep_forever()
    log.info("closed")


async def fail_on_trio():
    while not crash.is_set():
        await trio.sleep(0.01)
    raise ConnectionResetError("the database is gone")


@contextlib.contextmanager
def in_thread():
    log.info("opening")
    if where == "open hangs":
        time.sleep(3600)
    if where == "open fails":
        raise ConnectionRefusedError("no database")
    yield "state"
    log.info("closing")
    if where == "close fails":
        raise OSError("not flushed")
    if where == "close hangs":
        time.sleep(3600)
    log.info("closed")


in_process = in_thread


async def state_on_asyncio(payload, context: JobContext):
    await asyncio.sleep(0)
    return context.state


async def state_on_trio(payload, context: JobContext):
    await trio.lowlevel.checkpoint()
    return context.state


def state_in_thread(payload, context: JobContext):
    return context.state


def state_in_process(payload, context: JobContext):
    return [context.state, context.id, context.type, context.attempt, context.last_attempt]


def make_crash(payload):
    crash.set()


async def waits(payload):
    log.info("waits")
    await asyncio.sleep(3600)


async def unwinds(payload):
    log.info("waits")
    try:
        await asyncio.sleep(3600)
    finally:
        log.info("unwinds")
        await asyncio.sleep(3600)


async def swallows(payload):
    log.info("waits")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


async def blocks(seconds: float):
    time.sleep(seconds)


async def blocks_in_a_task(seconds: float):
    await asyncio.gather(asyncio.create_task(blocks(seconds)), asyncio.sleep(0))


async def blocks_for_ever(payload):
    log.info("waits")
    time.sleep(3600)


async def leaves_a_thread(payload):
    log.info("waits")
    await asyncio.to_thread(time.sleep, 3600)


async def forks(payload):
    pid = os.fork()
    if pid == 0:
        asyncio.create_task(note("task of the copy"))
    await asyncio.sleep(0)
    await note("child" if pid == 0 else "parent")
    if pid:
        os.waitpid(pid, 0)


async def note(text):
    with open("ledger", "a") as file:
        print(text, file=file)


async def modules(payload):
    threads = [each.name for each in threading.enumerate()]
    return [sorted(each for each in sys.modules if each.startswith("trio_jobs")), threads]
"""

PLACES = {"asyncio": "on_asyncio", "trio": "on_trio", "thread": "in_thread"}
EACH_LIFESPAN = [("asyncio", "asyncio"), ("asyncio", "uvloop"), ("trio", "asyncio")]
EACH_LIFESPAN += [("thread", "asyncio")]


def config(*functions: str, place: str | None = None, loop: str = "asyncio", more: str = "") -> str:
    """These functions, each in the place that its name ends with, else on asyncio."""
    text = f'[pool]\ngrace_period = 0.5\nasync_handlers = "asyncio"\nasyncio_loop = "{loop}"\n'
    text += f"[http]\ngraceful_timeout = 0.5\n{more}\n"
    if place is not None:
        text += f'[lifespan]\n{place} = "work:{PLACES[place]}"\n'
    text += "[handlers]\n"
    for name in functions:
        run = {"state_on_trio": "trio", "state_in_process": "process"}.get(name)
        table = f'call = "work:{name}"' + (f', run = "{run}"' if run else "")
        text += f"{name} = {{ {table} }}\n"
    return text


def state_of(place: str) -> str:
    return f"state_{PLACES[place]}"


def where(fault: str) -> dict[str, str]:
    """The environment of a command whose lifespan has this fault."""
    return {"WHERE": fault, "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}


# Lifespans: six modes. --------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "loop"), EACH_LIFESPAN)
async def test_a_lifespan_is_open_while_jobs_run(tmp_path: Path, place: str, loop: str) -> None:
    text = config(state_of(place), place=place, loop=loop)
    async with running_command(tmp_path, config=text, handlers=WORK) as server:
        assert len(server.lines_with("work opening")) == 1
        assert (await server.run(state_of(place)))["result"] == "state"
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
        assert len(server.lines_with("work closed")) == 1


@pytest.mark.parametrize(("place", "loop"), EACH_LIFESPAN)
async def test_a_lifespan_that_fails_at_the_start_ends_it_in_one_line(
    tmp_path: Path, place: str, loop: str
) -> None:
    text = config(state_of(place), place=place, loop=loop)
    environment = where("open fails")

    ended = await run_command(tmp_path, config=text, handlers=WORK, environment=environment)

    assert ended.status == 1
    assert ended.lines[-1].startswith(
        f"trio-jobs: config.toml: lifespan.{place} = 'work:{PLACES[place]}':"
        " ConnectionRefusedError: no database ("
    )
    assert ended.lines[-1].endswith(")")
    assert not [line for line in ended.lines if "Traceback" in line]
    ended = await run_command(
        tmp_path, "--log-level", "debug", config=text, handlers=WORK, environment=environment
    )
    assert [line for line in ended.lines if "Traceback" in line]


@pytest.mark.parametrize(("place", "loop"), EACH_LIFESPAN)
async def test_a_signal_while_a_lifespan_opens_ends_the_start(
    tmp_path: Path, place: str, loop: str
) -> None:
    text = config(state_of(place), place=place, loop=loop)
    environment = where("open hangs")
    async with started_command(
        tmp_path, config=text, handlers=WORK, environment=environment
    ) as server:
        await server.wait_for_line("work opening")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 1
        assert server.lines_with("start_stopped", "a lifespan has not opened before the stop")
        assert not server.lines_with("Running on")


@pytest.mark.parametrize(("place", "loop"), EACH_LIFESPAN[:3])
async def test_a_lifespan_that_fails_while_jobs_run_begins_the_drain(
    tmp_path: Path, place: str, loop: str
) -> None:
    text = config(state_of(place), "make_crash", place=place, loop=loop)
    environment = where("crashes")
    async with running_command(
        tmp_path, config=text, handlers=WORK, environment=environment
    ) as server:
        await server.submit("make_crash")

        assert await server.wait_exit() == 1
        assert server.lines_with("CRITICAL", "lifespan_failed", f"place={place}")
        assert server.lines_with("ConnectionResetError: the database is gone")
        assert server.lines_with("draining")
        assert server.lines_with("stopped status=1")


@pytest.mark.parametrize(("place", "loop"), EACH_LIFESPAN)
async def test_a_lifespan_that_fails_to_close_is_logged(
    tmp_path: Path, place: str, loop: str
) -> None:
    text = config(state_of(place), place=place, loop=loop)
    environment = where("close fails")
    async with running_command(
        tmp_path, config=text, handlers=WORK, environment=environment
    ) as server:
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 1
        assert server.lines_with("ERROR", "lifespan_close_failed", f"place={place}")
        assert server.lines_with("OSError: not flushed")


@pytest.mark.parametrize(("place", "loop"), EACH_LIFESPAN)
async def test_a_lifespan_that_does_not_close_is_left(
    tmp_path: Path, place: str, loop: str
) -> None:
    text = config(state_of(place), place=place, loop=loop)
    environment = where("close hangs")
    async with running_command(
        tmp_path, config=text, handlers=WORK, environment=environment
    ) as server:
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 1
        assert server.lines_with("lifespan_not_closed", f"place={place}", "seconds=0.5")


# The stop, at each step of a job. ---------------------------------------------------------------


CLOSING = (
    "import trio_jobs.handlers.asyncio_task as task",
    "import trio_jobs.handlers.loop_thread as loop_thread",
)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("handler", "events"),
    [
        ("waits", []),
        ("unwinds", ["asyncio_task_still_running"]),
        ("swallows", ["asyncio_task_still_running", "asyncio_still_running"]),
        ("blocks_for_ever", ["asyncio_task_still_running", "asyncio_still_running"]),
        ("leaves_a_thread", []),
    ],
)
async def test_a_stop_is_bounded_at_each_step_of_a_job(
    tmp_path: Path, handler: str, events: list[str], loop: str
) -> None:
    text = config(handler, loop=loop).replace("graceful_timeout = 0.5", "graceful_timeout = 60")
    # What ends by itself has the time for it, also on a busy machine.
    patience = [
        f"{name} = {PATIENCE}"
        for event, name in (
            ("asyncio_task_still_running", 'task.AsyncioTask.unwind.__kwdefaults__["seconds"]'),
            ("asyncio_still_running", "loop_thread._CLOSING_TIME"),
        )
        if event not in events
    ]
    patch = "\n".join([*CLOSING, *patience])
    async with running_command(tmp_path, config=text, handlers=WORK, patch=patch) as server:
        job_id = await server.submit(handler)
        await server.wait_for_line("work waits")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 1
        assert server.lines_with("jobs_interrupted", job_id)
        for event in ("asyncio_task_still_running", "asyncio_still_running"):
            assert bool(server.lines_with(event)) is (event in events)


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_second_signal_ends_a_handler_that_would_unwind_for_long(
    tmp_path: Path, loop: str
) -> None:
    text = config("unwinds", loop=loop).replace("grace_period = 0.5", "grace_period = 3600")
    async with running_command(tmp_path, config=text, handlers=WORK) as server:
        await server.submit("unwinds")
        await server.wait_for_line("work waits")
        server.send(signal.SIGTERM)
        await server.wait_for_line("draining")
        await trio.sleep(APART)
        server.send(signal.SIGINT)
        await server.wait_for_line("work unwinds")

        assert await server.wait_exit() == 1


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_stop_at_a_lifespan_beside_a_job_that_swallows_its_cancel(
    tmp_path: Path, loop: str
) -> None:
    """Unwinding, closing and the loop's end each take as long as they may."""
    text = config("swallows", "state_on_asyncio", place="asyncio", loop=loop)
    limit = "import trio_jobs.shutdown.stop as stop; stop.Stop.__init__.__kwdefaults__['margin'] = "
    async with running_command(
        tmp_path,
        config=text,
        handlers=WORK,
        environment=where("close hangs"),
        patch=f"{limit}{PATIENCE}",
    ) as server:
        await server.submit("swallows")
        await server.wait_for_line("work waits")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 1
        assert server.lines_with("lifespan_not_closed")
        assert server.lines_with("asyncio_still_running")


def test_the_steps_of_the_stop_above_take_less_than_the_hard_limit_gives_them() -> None:
    # It gives them `graceful_timeout`, too: that is what a lifespan takes.
    assert _UNWINDING_TIME + _CLOSING_TIME < MARGIN_SECONDS


# What blocks, what forks, what is imported. -----------------------------------------------------


async def test_a_handler_that_blocks_its_loop_is_named(tmp_path: Path) -> None:
    text = config("blocks", "blocks_in_a_task", more="[logging]\nslow_step = 0.05")
    async with running_command(tmp_path, config=text, handlers=WORK) as server:
        for name in ("blocks", "blocks_in_a_task"):
            job = await server.run(name, 0.1)
            # The answer may be there before the line.
            line = await server.wait_for_line("event_loop_blocked", f"handler=work:{name} ")
            assert "WARNING" in line
            assert f"job_id={job['id']} job_type={name}" in line
            assert "loop=asyncio" in line


@pytest.mark.parametrize("loop", ["asyncio"])
async def test_a_copy_that_a_handler_forks_ends_with_the_handlers_step(
    tmp_path: Path, loop: str
) -> None:
    text = config("forks", "waits", loop=loop)
    async with running_command(tmp_path, config=text, handlers=WORK) as server:
        job = await server.run("forks")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
        assert job["outcome"] == "succeeded"
        assert (tmp_path / "ledger").read_text() == "parent\n"


async def test_a_server_without_such_handlers_has_no_loop_of_asyncio(tmp_path: Path) -> None:
    text = config("modules").replace('async_handlers = "asyncio"', "")
    async with running_command(tmp_path, config=text, handlers=WORK) as server:
        [modules, threads] = (await server.run("modules"))["result"]

    # Quart imports asyncio. None of the project's modules does.
    ours = {"asyncio_runner", "asyncio_task", "daemon_executor", "loop_thread", "timed_loop"}
    assert not ours & {each.rpartition(".")[2] for each in modules}
    assert "asyncio" not in threads


async def test_a_pool_without_such_handlers_does_not_import_asyncio(tmp_path: Path) -> None:
    program = (
        "import sys, trio, trio_jobs\n"
        "async def work(payload): return 'asyncio' in sys.modules\n"
        "async def main():\n"
        "    async with trio_jobs.open_jobs({'work': work}) as jobs:\n"
        "        assert await jobs.result(jobs.submit('work').id) is False\n"
        "trio.run(main)\n"
    )

    ended = await run_command(tmp_path, command=(sys.executable, "-c", program))

    assert (ended.status, ended.lines) == (0, [])


async def test_a_loop_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('not for this Python')\n")
    text = config("waits", loop="uvloop")

    for arguments in ((), ("--check",)):
        ended = await run_command(tmp_path, *arguments, config=text, handlers=WORK)

        assert ended.status == 2
        assert ended.lines == [
            (
                "trio-jobs: config.toml: pool.asyncio_loop: uvloop cannot be imported: not for"
                " this Python"
            )
        ]


# Processes. -------------------------------------------------------------------------------------


def process_config(grace_period: float = 60) -> str:
    text = config("state_in_process", more='[lifespan]\nprocess = "work:in_process"')
    if grace_period == 60:  # a process ends by itself, also on a busy machine
        text = text.replace("graceful_timeout = 0.5", "graceful_timeout = 60")
    return text.replace("grace_period = 0.5", f"grace_period = {grace_period}\nprocesses = 1")


async def test_a_process_has_a_lifespan_and_a_context_of_its_own(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=process_config(), handlers=WORK) as server:
        assert not server.lines_with("work opening")
        for _ in range(2):
            job = await server.run("state_in_process")
            assert job["result"] == ["state", job["id"], "state_in_process", 1, True]
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
        assert len(server.lines_with("work opening")) == 1
        assert len(server.lines_with("work closed")) == 1


async def test_a_lifespan_that_fails_in_a_process_fails_its_job(tmp_path: Path) -> None:
    environment = where("open fails")
    async with running_command(
        tmp_path, config=process_config(), handlers=WORK, environment=environment
    ) as server:
        for _ in range(2):
            job = await server.run("state_in_process")
            assert job["outcome"] == "failed"
            assert job["error"]["type"] == "LifespanError"
            assert job["error"]["message"].startswith(
                "lifespan.process = 'work:in_process': ConnectionRefusedError: no database ("
            )
        await server.wait_for_lines(2, "work opening")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0


@pytest.mark.parametrize(
    ("where", "event", "status"),
    [("close fails", "lifespan_close_failed", 0), ("close hangs", "processes_killed", 1)],
)
async def test_a_lifespan_that_does_not_close_in_a_process(
    tmp_path: Path, where: str, event: str, status: int
) -> None:
    config = process_config(grace_period=60 if where == "close fails" else 0.5)
    environment = {"WHERE": where, "TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}
    async with running_command(
        tmp_path, config=config, handlers=WORK, environment=environment
    ) as server:
        await server.run("state_in_process")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == status
        assert server.lines_with(event)


# Refusals. --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lifespan", "complaint"),
    [
        (
            'thread = "work:in_thread"',
            "the lifespan 'thread' has no use: no handler runs there",
        ),
        (
            'asyncio = "work:on_asyncio"\nasync = "work:on_asyncio"',
            "the lifespans 'async' and 'asyncio' are for the same place",
        ),
        (
            'asyncio = "work:in_thread"',
            (
                "lifespan.asyncio = 'work:in_thread': makes a plain context manager; the place"
                " needs an async one"
            ),
        ),
        (
            'asyncio = "work:nothing"',
            "lifespan.asyncio = 'work:nothing': module 'work' (",
        ),
        (
            'asyncio = "work:waits"',
            (
                "lifespan.asyncio = 'work:waits': is a coroutine function, which makes no context"
                " manager"
            ),
        ),
    ],
)
async def test_a_lifespan_that_cannot_be_one_is_refused(
    tmp_path: Path, lifespan: str, complaint: str
) -> None:
    text = config("waits", more=f"[lifespan]\n{lifespan}")

    ended = await run_command(tmp_path, "--check", config=text, handlers=WORK)

    assert ended.status == 2
    assert ended.lines[-1].startswith(f"trio-jobs: config.toml: {complaint}")


async def test_a_check_does_not_open_a_lifespan(tmp_path: Path) -> None:
    text = config("state_on_asyncio", place="asyncio")
    environment = {"WHERE": "open fails"}

    ended = await run_command(
        tmp_path, "--check", config=text, handlers=WORK, environment=environment
    )

    assert (ended.status, ended.lines) == (0, [])
    assert '[lifespan]\nasyncio = "work:on_asyncio"\n' in ended.output


@pytest.mark.parametrize(("run", "warned"), [("", True), ("trio", False), ("async", True)])
async def test_the_check_and_the_start_warn_of_a_wrong_loop(
    tmp_path: Path, run: str, warned: bool
) -> None:
    more = f', run = "{run}"' if run else ""
    text = f'[handlers]\nwaits = {{ call = "work:waits"{more} }}\n'
    advice = 'runs on Trio, and uses asyncio: run = "asyncio"'

    checked = await run_command(tmp_path, "--check", config=text, handlers=WORK)

    line = f"trio-jobs: warning: config.toml: handlers.waits = 'work:waits' {advice}"
    assert checked.status == 0
    assert checked.lines == ([line] if warned else [])
    async with running_command(tmp_path, config=text, handlers=WORK) as server:
        assert bool(server.lines_with("WARNING", "wrong_loop", "handler=work:waits")) is warned
