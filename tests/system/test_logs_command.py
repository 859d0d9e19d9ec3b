"""The log of the command, whatever handlers and their modules do to logging and to processes."""

import re
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
    log.error("long", extra={"by": what, "pad": "x" * 100_000})


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
            job = {"type": what, "payload": what}
            answer = await server.client.post("/jobs", json=job, headers={"Prefer": "wait=20"})
            assert answer.json()["result"] == 0
            ids[what] = f" job_id={answer.json()['id']}"
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    lines = [line.partition(" INFO shop ")[2] for line in server.lines_with(" INFO shop said")]
    expected = [f"said_before{ids['in_async']} by=in_async n={n}" for n in range(20)]
    for what in ("import", "in_async", "in_thread"):
        expected += [f"said{ids.get(what, '')} by={what} n={n}" for n in range(20)]
    assert sorted(lines) == sorted(expected)
    assert len(server.lines_with(" ERROR shop long")) == 3


# What user code does to logging

LOGGING = """
import contextlib
import io
import logging
import logging.config
import os
import sys
import threading
import warnings

import trio

log = logging.getLogger("shop")


class Hostile(logging.LogRecord):
    def __init__(self, *args, **fields):
        raise RuntimeError("no record")


class Silent(logging.Logger):
    def handle(self, record):
        pass


def blocks(*_):
    raise AssertionError("a handler of the root was asked about a line of the server's")


class Blocking(logging.Handler):
    def handle(self, record):
        if record.name.startswith(("trio", "py")):
            blocks()


def of_the_server():
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("trio"):
            yield logging.getLogger(name)


def dict_config():
    logging.config.dictConfig({"version": 1})


def dict_config_of_all():
    handlers = {"none": {"class": "logging.NullHandler"}}
    each = {"level": "CRITICAL", "handlers": ["none"], "propagate": False}
    names = ["trio_jobs", "trio_jobs.server", "trio_jobs.main", "py.warnings"]
    logging.config.dictConfig(
        {"version": 1, "handlers": handlers, "root": each, "loggers": dict.fromkeys(names, each)}
    )


def basic_config():
    logging.basicConfig(force=True, level="ERROR", stream=io.StringIO())


def no_handlers():
    logging.getLogger().handlers.clear()


def own_handler_beside():
    logging.getLogger().addHandler(Blocking())


def disable():
    logging.disable(logging.CRITICAL)


def disable_each():
    for logger in of_the_server():
        logger.disabled = True
        logger.propagate = False


def levels():
    for logger in [logging.getLogger(), *of_the_server()]:
        logger.setLevel(logging.CRITICAL + 1)
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.CRITICAL + 1)


def filters():
    for each in [logging.getLogger(), *of_the_server(), *logging.getLogger().handlers]:
        each.addFilter(lambda record: False)


def shutdown():
    logging.shutdown()


def logger_class():
    logging.setLoggerClass(Silent)


def record_factory():
    logging.setLogRecordFactory(Hostile)


def record_class():
    logging.LogRecord = Hostile


def level_names():
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.addLevelName(level, "level")


def standard_error():
    sys.stderr = None
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def hooks():
    threading.excepthook = sys.unraisablehook = lambda *_: None


def capture_warnings():
    logging.captureWarnings(False)


async def taking(what):
    globals()[what]()


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
        globals()[what]()
    trio.lowlevel.current_trio_token().run_sync_soon(lambda: 1 / 0)
    await trio.sleep_forever()
"""

# What each of these takes of what the server puts back; its own lines need none of that.
TAKEN = {
    "dict_config": [],
    "dict_config_of_all": ["log handler", "log level"],
    "basic_config": ["log handler", "log level"],
    "no_handlers": ["log handler"],
    "own_handler_beside": [],
    "disable": ["logging.disable"],
    "disable_each": [],
    "levels": ["log handler", "log level"],
    "filters": [],
    "shutdown": [],
    "logger_class": [],
    "record_factory": [],
    "record_class": [],
    "level_names": [],
    "standard_error": [],
    "hooks": ["threading.excepthook", "sys.unraisablehook"],
    "capture_warnings": ["warnings.showwarning"],
}
# Whose lines of handlers are user code's own affair.
SILENCES_ITS_OWN = {"dict_config", "dict_config_of_all", "record_factory", "level_names"}
SHOP = """
[handlers]
taking = "work:taking"
fail = "work:fail"
warn = "work:warn"
crash = "work:crash"
"""


async def run_job(server: Command, job_type: str, payload: str) -> str:
    job = {"type": job_type, "payload": payload}
    answer = await server.client.post("/jobs", json=job, headers={"Prefer": "wait=20"})
    assert answer.json()["status"] == "completed"
    return str(answer.json()["id"])


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


@pytest.mark.parametrize("what", TAKEN)
async def test_server_logs_whatever_a_module_does_to_logging(tmp_path: Path, what: str) -> None:
    config = "[http]\naccess_log = true\n" + SHOP
    async with running_command(
        tmp_path, config=config, handlers=f"{LOGGING}\n{what}()\n"
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
    expected = (",".join(TAKEN[what]), "module_name=work" if TAKEN[what] else "")
    assert what_was_taken_back(server) == expected
    if what not in SILENCES_ITS_OWN:
        assert server.lines_with(f"INFO shop said job_id={warned} by={what}")


@pytest.mark.smoke
async def test_server_logs_whatever_a_handler_does_to_logging(tmp_path: Path) -> None:
    # The one that is looked for after imports alone, and that whose lines are then all broken.
    last = ["capture_warnings", "record_factory"]
    ids = {}
    async with running_command(tmp_path, config=SHOP, handlers=LOGGING) as server:
        for what in [*(TAKEN.keys() - last), *last]:
            await run_job(server, "taking", what)
            ids[what] = await run_job(server, "fail", "no"), await run_job(server, "warn", what)
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    for what, (failed, warned) in ids.items():
        assert server.lines_with("WARNING trio_jobs.pool.worker job_failed", failed), what
        if what not in last:
            assert server.lines_with("WARNING py.warnings", "look out", warned), what
    assert len(server.lines_with("ERROR trio_jobs.logs thread_failed")) == len(TAKEN)
    assert server.lines_with(" stopped status=0")
    names, by = what_was_taken_back(server)
    # Not each time: the third job to take the same is not told.
    expected = {name for what in ids for name in TAKEN[what] if what not in last}
    assert (set(names.split(",")), by) == (expected, "job_types=taking")


async def test_crash_is_logged_although_a_running_job_has_taken_all_of_the_log(
    tmp_path: Path,
) -> None:
    async with running_command(tmp_path, config=SHOP, handlers=LOGGING) as server:
        job_id = await server.submit("crash", list(TAKEN))
        assert await server.wait_exit() == 1

    assert server.lines_with("CRITICAL trio_jobs.bootstrap server_failed")
    assert server.lines_with("ZeroDivisionError")
    assert server.lines_with("jobs_interrupted", job_id)


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
