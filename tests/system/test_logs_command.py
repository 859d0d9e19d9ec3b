"""The log of the command, whatever handlers and their modules do to logging and to processes."""

import json
import re
import select
import signal
from pathlib import Path

import pytest

from tests.command import Command, running_command

FORKING = """
import logging
import multiprocessing
import os

log = logging.getLogger("shop")
fork = multiprocessing.get_context("fork")


def say(what):
    for n in range(20):
        log.info("said", extra={"by": what, "n": n})
    try:
        raise ValueError("the end")
    except ValueError:
        log.exception("long", extra={"by": what, **{f"pad{n}": "x" * 10_000 for n in range(4)}})


async def in_async(what):
    for n in range(20):
        log.info("said_before", extra={"by": what, "n": n})
    child = fork.Process(target=say, args=(what,))
    child.start()
    child.join()
    return child.exitcode


def in_thread(what):
    child = fork.Process(target=say, args=(what,))
    child.start()
    child.join()
    return child.exitcode


child = os.fork()
if child == 0:
    say("import")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


async def test_lines_of_children_arrive_whole_and_once_with_the_id_of_the_job(
    tmp_path: Path,
) -> None:
    config = '[handlers]\nin_async = "work:in_async"\nin_thread = "work:in_thread"\n'
    async with running_command(tmp_path, config=config, handlers=FORKING) as server:
        ids = {}
        for what in ("in_async", "in_thread"):
            job = await server.run(what, what)
            assert job["result"] == 0
            ids[what] = f" job_id={job['id']}"
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    lines = [line.partition(" INFO shop ")[2] for line in server.lines_with(" INFO shop said")]
    expected = [f"said_before{ids['in_async']} by=in_async n={n}" for n in range(20)]
    for what in ("import", "in_async", "in_thread"):
        expected += [f"said{ids.get(what, '')} by={what} n={n}" for n in range(20)]
    assert sorted(lines) == sorted(expected)
    longs = server.lines_with(" ERROR shop long")
    assert [1000 < len(line.encode()) < select.PIPE_BUF for line in longs] == [True] * 3
    assert server.lines.count("  ValueError: the end") == 3


# What user code does to logging: its code, and the names of what the server then puts back. The
# server's own lines need none of that.
TAKING: dict[str, tuple[str, list[str]]] = {
    "dictConfig": ("logging.config.dictConfig({'version': 1})", []),
    "dictConfig of all": (
        "logging.config.dictConfig(EVERYTHING_OFF)",
        ["log handler", "log level"],
    ),
    "basicConfig": (
        "logging.basicConfig(force=True, level='ERROR', stream=io.StringIO())",
        ["log handler", "log level"],
    ),
    "no handlers": ("logging.getLogger().handlers.clear()", ["log handler"]),
    "own handler": ("logging.getLogger().addHandler(Blocking())", []),
    "disable": ("logging.disable(logging.CRITICAL)", ["logging.disable"]),
    "disable each": (
        "for logger in of_the_server():\n    logger.disabled = True\n    logger.propagate = False",
        [],
    ),
    "levels": (
        "for each in [root, *of_the_server(), *root.handlers]:\n    each.setLevel(51)",
        ["log handler", "log level"],
    ),
    "filters": (
        "for each in [root, *of_the_server(), *root.handlers]: each.addFilter(lambda _: False)",
        [],
    ),
    "shutdown": ("logging.shutdown()", []),
    "logger class": ("logging.setLoggerClass(Silent)", []),
    "record factory": ("logging.setLogRecordFactory(Hostile)", []),
    "record class": ("logging.LogRecord = Hostile", []),
    "level names": ("for each in (10, 20, 30, 40):\n    logging.addLevelName(each, 'level')", []),
    "standard error": ("sys.stderr = None\nos.dup2(os.open(os.devnull, os.O_WRONLY), 2)", []),
    "hooks": (
        "threading.excepthook = sys.unraisablehook = lambda *_: None",
        ["threading.excepthook", "sys.unraisablehook"],
    ),
    "capture warnings": ("logging.captureWarnings(False)", ["warnings.showwarning"]),
}
# After these the lines of handlers are user code's own affair.
SILENCES_ITS_OWN = {"dictConfig", "dictConfig of all", "record factory", "level names"}
# At import each of them is tried as well that the server looks for in another way, or takes back.
AT_IMPORT = sorted({name for name, (_, taken) in TAKING.items() if taken} | SILENCES_ITS_OWN)

LOGGING = (
    f"TAKING = {TAKING!r}\n"
    """
import io
import logging
import logging.config
import os
import sys
import threading
import warnings

import trio

log = logging.getLogger("shop")
root = logging.getLogger()
OFF = {"level": "CRITICAL", "handlers": ["none"], "propagate": False}
EVERYTHING_OFF = {
    "version": 1,
    "handlers": {"none": {"class": "logging.NullHandler"}},
    "root": OFF,
    "loggers": dict.fromkeys(["trio_jobs", "trio_jobs.server", "py.warnings"], OFF),
}


class Hostile(logging.LogRecord):
    def __init__(self, *args, **fields):
        raise RuntimeError("no record")


class Silent(logging.Logger):
    def handle(self, record):
        pass


class Blocking(logging.Handler):
    def handle(self, record):
        if record.name.startswith(("trio", "py")):
            raise AssertionError("asked about a line of the server's")


def of_the_server():
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("trio"):
            yield logging.getLogger(name)


def take(what):
    exec(TAKING[what][0], globals())


async def taking(what):
    take(what)


async def fail(what):
    raise ValueError(what)


async def warn(what):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("look out")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    log.info("said", extra={"by": what})


async def crash(each):
    for what in each:
        take(what)
    trio.lowlevel.current_trio_token().run_sync_soon(lambda: 1 / 0)
    await trio.sleep_forever()
"""
)
SHOP = """
[handlers]
taking = "work:taking"
fail = "work:fail"
warn = "work:warn"
crash = "work:crash"
"""


async def run_job(server: Command, job_type: str, payload: str) -> str:
    return str((await server.run(job_type, payload))["id"])


def what_was_taken_back(server: Command) -> tuple[str, str]:
    """The names, and who took them."""
    lines = server.lines_with("taken_back")
    whats, whos = [], set()
    for line in lines:
        found = re.search(
            r'WARNING trio_jobs\.takeovers taken_back what="?(.*?)"? (\w+=\w+)(?: times=\d+)?$',
            line,
        )
        assert found, line
        whats.append(found[1])
        whos.add(found[2])
    return ",".join(whats), ",".join(whos)


@pytest.mark.parametrize("what", AT_IMPORT)
async def test_server_logs_whatever_a_module_does_to_logging(tmp_path: Path, what: str) -> None:
    config = "[http]\naccess_log = true\n" + SHOP
    async with running_command(
        tmp_path, config=config, handlers=f"{LOGGING}\ntake({what!r})\n"
    ) as server:
        failed = await run_job(server, "fail", "no")
        warned = await run_job(server, "warn", what)
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    assert server.lines_with("WARNING trio_jobs.pool.worker job_failed", failed)
    assert len(server.lines_with("INFO trio_jobs.access request")) == 2
    assert server.lines_with("WARNING py.warnings", "look out", warned)
    assert server.lines_with("ERROR trio_jobs.logs thread_failed")
    assert server.lines_with(" stopped status=0")
    taken = TAKING[what][1]
    expected = (",".join(taken), "module_name=work" if taken else "")
    assert what_was_taken_back(server) == expected
    if what not in SILENCES_ITS_OWN:
        assert server.lines_with(f"INFO shop said job_id={warned} by=")


@pytest.mark.smoke
async def test_server_logs_whatever_a_handler_does_to_logging(tmp_path: Path) -> None:
    # The one that is looked for after imports alone, and that whose lines are then all broken.
    last = ["capture warnings", "record factory"]
    ids = {}
    async with running_command(tmp_path, config=SHOP, handlers=LOGGING) as server:
        for what in [*(TAKING.keys() - last), *last]:
            await run_job(server, "taking", what)
            ids[what] = await run_job(server, "fail", "no"), await run_job(server, "warn", what)
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    for what, (failed, warned) in ids.items():
        assert server.lines_with("WARNING trio_jobs.pool.worker job_failed", failed), what
        if what not in last:
            assert server.lines_with("WARNING py.warnings", "look out", warned), what
    assert len(server.lines_with("ERROR trio_jobs.logs thread_failed")) == len(TAKING)
    assert server.lines_with(" stopped status=0")
    names, by = what_was_taken_back(server)
    # Not each time: the third job to take the same is not told.
    expected = {name for what in ids for name in TAKING[what][1] if what not in last}
    assert (set(names.split(",")), by) == (expected, "job_types=taking")


async def test_crash_is_logged_although_a_running_job_has_taken_all_of_the_log(
    tmp_path: Path,
) -> None:
    config = f"[pool]\nworkers = 1\n{SHOP}"
    jobs = [{"type": "crash", "payload": list(TAKING)}] * 2
    async with running_command(tmp_path, config=config, handlers=LOGGING) as server:
        async with server.client.stream("POST", "/jobs/batch", json=jobs) as answer:
            begun, waiting = [job["id"] for job in json.loads(await answer.aread())]
        assert await server.wait_exit() == 1

    assert server.lines_with("CRITICAL trio_jobs.bootstrap server_failed")
    assert server.lines_with("ZeroDivisionError")
    assert server.lines_with("jobs_interrupted", f"job_ids={begun}")
    assert server.lines_with("jobs_not_started", f"job_ids={waiting}")


async def test_unread_pipe_and_a_handler_on_the_root_hold_up_no_line_of_the_server(
    tmp_path: Path,
) -> None:
    handlers = """
import logging

logging.basicConfig(force=True, level="INFO", format="%(message)s " + "x" * 1_000)


async def quick(_):
    pass
"""
    config = '[http]\naccess_log = true\n[handlers]\nquick = "work:quick"\n'
    async with running_command(tmp_path, config=config, handlers=handlers) as server:
        server.stop_reading()
        for _ in range(200):
            answer = await server.client.get("/jobs?limit=1")
            assert answer.status_code == 200
        server.send(signal.SIGTERM)
        assert await server.process.wait() == 0
