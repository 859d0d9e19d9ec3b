"""A child that a handler forks is a program of its own, and has nothing of the server's.

Over the real command: what is copied is a process.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.command import Command, ledger, run_command, running_command, started_command

HANDLERS = '''
import json
import multiprocessing
import os
import signal
import socket
import threading
import time

import trio

fork = multiprocessing.get_context("fork")
forkserver = multiprocessing.get_context("forkserver")
OURS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM")


def note(payload):
    ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{payload}\\n".encode())
    os.close(ledger)


def sockets():
    """The addresses of all stream sockets of this process."""
    found = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(fd)) as each:
                if each.family == socket.AF_INET:
                    found.append(each.getsockname()[1])
        except OSError:
            pass
    return found


def properties():
    """What a fork copies of a process."""
    return {
        "handlers": {name: str(signal.getsignal(getattr(signal, name))) for name in OURS},
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "wakeup": signal.set_wakeup_fd(-1),
        "alarm": signal.getitimer(signal.ITIMER_REAL)[0],
        "threads": len(os.listdir("/proc/self/task")),
        "ports": sockets(),
    }


def show(connection):
    connection.send(properties())


def of_child(context):
    mine, its = context.Pipe()
    child = context.Process(target=show, args=(its,))
    child.start()
    its.close()
    shown = mine.recv()
    child.join()
    return shown


def of_grandchild(_):
    mine, its = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a handler of its own
        grandchild = os.fork()
        if grandchild == 0:
            os.write(its, json.dumps(properties()).encode())
            os._exit(0)
        os.waitpid(grandchild, 0)
        os._exit(0)
    os.waitpid(child, 0)
    return json.loads(os.read(mine, 100_000))


def fork_in_thread(_):
    return of_child(fork)


async def fork_in_loop(_):
    return of_child(fork)


def forkserver_in_thread(_):
    return of_child(forkserver)


def end_at_once(context):
    child = context.Process(target=time.sleep, args=(3600,))
    child.start()
    child.terminate()
    child.join()
    return child.exitcode


def terminate_in_thread(_):
    return end_at_once(fork)


async def terminate_in_loop(_):
    return end_at_once(fork)


def kill_copies_in_process(_):
    """How each of a few copies ends that is sent a signal at once."""
    ended = {}
    for name in OURS:
        child = os.fork()
        if child == 0:
            time.sleep(3600)
        os.kill(child, getattr(signal, name))
        if name == "SIGINT":  # it may come where Python drops it
            os.kill(child, signal.SIGTERM)
        ended[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return ended


def pool_in_process(_):
    for _ in range(5):
        with fork.Pool(4) as pool:
            pool.apply(abs, (-1,))


async def leave_child(_):
    child = os.fork()
    if child == 0:
        time.sleep(3600)
    return child


async def copy_that_waits(_):
    if os.fork() == 0:
        await trio.sleep(0)
    await trio.sleep(0.05)
    note("copy_that_waits")


async def copy_that_returns(_):
    if os.fork() != 0:
        await trio.sleep(0.05)
    note("copy_that_returns")


async def copy_that_raises(_):
    if os.fork() == 0:
        raise SystemExit
    await trio.sleep(0.05)


def copy_of_thread_that_returns(_):
    child = os.fork()
    if child != 0:
        return os.waitpid(child, 0)[1]


def copy_of_thread_that_raises(_):
    child = os.fork()
    if child == 0:
        raise SystemExit
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def copy_of_own_thread(_):
    children = []
    thread = threading.Thread(target=lambda: children.append(os.fork()))
    thread.start()
    thread.join()
    return os.waitpid(children[0], 0)[1]


async def count(payload):
    note(payload)
'''

FUNCTIONS = [
    line.partition("def ")[2].partition("(")[0]
    for line in HANDLERS.splitlines()
    if line.endswith(("(_):", "count(payload):"))
]
CONFIG = "\n".join(
    [
        "[pool]\nworkers = 1\nbuffer_size = 100\ngrace_period = 60",
        "[handlers]",
        *(
            f'{name} = {{call = "work:{name}", run = "process"}}'
            if name.endswith("_in_process")
            else f'{name} = "work:{name}"'
            for name in FUNCTIONS
        ),
    ]
)

PYTHONS_OWN = {
    "SIGTERM": "0",
    "SIGHUP": "0",
    "SIGQUIT": "0",
    "SIGUSR1": "0",
    "SIGUSR2": "0",
    "SIGALRM": "0",
    "SIGINT": "<built-in function default_int_handler>",
}

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")


async def result_of(server: Command, job_type: str) -> Any:  # noqa: ANN401 - JSON
    """What a job of this type ends with."""
    job = await server.run(job_type)
    assert job["outcome"] == "succeeded", job
    return job["result"]


def port(server: Command) -> int:
    """Where it serves."""
    return int(server.url.rpartition(":")[2])


def assert_nothing_is_the_servers(shown: dict[str, Any], server: Command) -> None:
    """Nothing in a child is what belongs to the server's process alone."""
    handlers = {name: each.removeprefix("Handlers.") for name, each in shown["handlers"].items()}
    assert {name: "0" if each == "SIG_DFL" else each for name, each in handlers.items()} == (
        PYTHONS_OWN
    )
    assert shown["blocked"] == []
    assert shown["wakeup"] == -1
    assert shown["alarm"] == 0
    assert shown["threads"] == 1
    assert port(server) not in shown["ports"]


@pytest.mark.parametrize(
    "job_type",
    [
        "fork_in_thread",
        pytest.param("fork_in_loop", marks=pytest.mark.smoke),
        "forkserver_in_thread",
    ],
)
async def test_child_has_pythons_own_signals_and_nothing_of_the_server(
    tmp_path: Path, job_type: str
) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=HANDLERS) as server:
        await server.client.get("/health")  # a connection that stays open

        assert_nothing_is_the_servers(await result_of(server, job_type), server)


async def test_child_that_is_forked_while_the_server_stops_has_no_alarm(tmp_path: Path) -> None:
    handlers = (
        f"{HANDLERS}\nasync def late(_):\n    await trio.sleep(0.3)\n    return of_child(fork)"
    )
    config = f'{CONFIG}\nlate = "work:late"'
    async with running_command(tmp_path, config=config, handlers=handlers) as server:
        job_id = await server.submit("late")
        server.send(signal.SIGTERM)
        answer = await server.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=20"})

        assert_nothing_is_the_servers(answer.json()["result"], server)
        assert await server.wait_exit() == 0


async def test_child_of_a_child_keeps_what_that_one_has_set(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=HANDLERS) as server:
        shown = await result_of(server, "of_grandchild")

        assert "1" in shown["handlers"]["SIGUSR1"] or "IGN" in shown["handlers"]["SIGUSR1"]
        shown["handlers"]["SIGUSR1"] = "0"
        assert_nothing_is_the_servers(shown, server)


@pytest.mark.parametrize("job_type", ["terminate_in_thread", "terminate_in_loop"])
async def test_child_that_is_terminated_at_once_ends_by_that_signal(
    tmp_path: Path, job_type: str
) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=HANDLERS) as server:
        for _ in range(20):
            assert await result_of(server, job_type) == -signal.SIGTERM


async def test_copy_of_a_child_process_ends_by_the_signal_that_is_sent_at_once(
    tmp_path: Path,
) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=HANDLERS) as server:
        ended = await result_of(server, "kill_copies_in_process")

    assert ended.pop("SIGINT") in (1, -signal.SIGINT, -signal.SIGTERM)
    assert ended == {name: -signal.Signals[name] for name in ended}


async def test_pool_of_children_ends_with_its_block(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=HANDLERS) as server:
        assert await result_of(server, "pool_in_process") is None


async def test_server_can_be_started_again_while_a_child_of_a_killed_one_lives(
    tmp_path: Path,
) -> None:
    async with running_command(tmp_path, config=CONFIG, handlers=HANDLERS) as server:
        child = await result_of(server, "leave_child")
        bind = f"--bind=127.0.0.1:{port(server)}"
        try:
            server.process.kill()
            await server.process.wait()
            async with running_command(tmp_path, bind, config=CONFIG, handlers=HANDLERS) as again:
                assert (await again.client.get("/health")).status_code == 200
                os.kill(child, 0)  # it is still there
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("copy", ["copy_that_waits", "copy_that_returns", "copy_that_raises"])
async def test_copy_of_the_event_loop_runs_no_job(tmp_path: Path, copy: str) -> None:
    async with running_command(
        tmp_path, "--log-level=debug", config=CONFIG, handlers=HANDLERS
    ) as server:
        batch = [{"type": copy}, *({"type": "count", "payload": n} for n in range(20))]
        answer = await server.client.post("/jobs/batch", content=json.dumps(batch))
        assert answer.status_code < 300, answer.text
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
    expected = [str(n) for n in range(20)] + ([] if copy == "copy_that_raises" else [copy])
    assert sorted(line for line in ledger(tmp_path)) == sorted(
        expected + (["copy_that_returns"] if copy == "copy_that_returns" else [])
    )
    assert len(server.lines_with("job_succeeded")) == 21
    assert not server.lines_with("job_failed") + server.lines_with("handler_raised")


@pytest.mark.parametrize(
    ("copy", "status"),
    [
        ("copy_of_thread_that_returns", 0),
        ("copy_of_thread_that_raises", 1),
        ("copy_of_own_thread", 0),
    ],
)
async def test_copy_of_a_thread_ends_with_its_function(
    tmp_path: Path, copy: str, status: int
) -> None:
    async with running_command(
        tmp_path, "--log-level=debug", config=CONFIG, handlers=HANDLERS
    ) as server:
        assert await result_of(server, copy) == status
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
    assert len(server.lines_with("job_succeeded")) == 1
    assert not server.lines_with("job_failed") + server.lines_with("handler_raised")


AT_IMPORT = """
import os
import sys

child = os.fork()
if child == 0:
    how()
else:
    os.waitpid(child, 0)

async def quick(_):
    return "quick"
"""


@pytest.mark.parametrize(
    "how", ["(lambda: None)", "sys.exit", "(lambda: 1 / 0)"], ids=["goes on", "exits", "raises"]
)
async def test_copy_that_is_forked_at_import_ends_with_it(tmp_path: Path, how: str) -> None:
    async with running_command(
        tmp_path,
        config='[handlers]\nquick = "work:quick"',
        handlers=AT_IMPORT.replace("how", how),
    ) as server:
        assert await result_of(server, "quick") == "quick"
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0
    assert len(server.lines_with("Running on")) == 1
    assert not server.lines_with("trio-jobs:")


async def test_copy_that_is_forked_at_import_shows_no_settings(tmp_path: Path) -> None:
    checked = await run_command(
        tmp_path,
        "--check",
        config='[handlers]\nquick = "work:quick"',
        handlers=AT_IMPORT.replace("how", "(lambda: None)"),
    )

    assert checked.status == 0
    assert checked.output.count("[pool]") == 1


async def test_child_that_is_forked_at_import_holds_nothing(tmp_path: Path) -> None:
    handlers = f"{HANDLERS}\nSHOWN = of_child(fork)\nasync def shown(_):\n    return SHOWN"
    async with started_command(
        tmp_path, config='[handlers]\nshown = "work:shown"', handlers=handlers
    ) as server:
        await server.wait_running()

        assert_nothing_is_the_servers(await result_of(server, "shown"), server)


PROGRAM = """
import os
import trio
from trio_jobs import open_jobs

async def copy(_):
    os.fork()
    await trio.lowlevel.checkpoint()

async def count(n):
    os.write(1, b"%d\\n" % n)

async def main():
    async with open_jobs({"copy": copy, "count": count}, workers=2) as jobs:
        jobs.submit("copy")
        for n in range(20):
            jobs.submit("count", n)

trio.run(main)
"""


async def test_copy_of_a_program_with_a_pool_runs_no_job() -> None:
    ended = await trio.run_process([sys.executable, "-c", PROGRAM], capture_stdout=True)

    assert sorted(map(int, ended.stdout.split())) == list(range(20))
