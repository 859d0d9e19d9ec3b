"""The log of the command, whatever handlers and their modules do to logging and to processes."""

import signal
from pathlib import Path

from tests.command import running_command

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
