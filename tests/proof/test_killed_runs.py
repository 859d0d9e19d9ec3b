"""`trio-jobs run` is killed at random, again and again, and goes on: each record has its one line.

    pytest -m soak -k killed_run --report docs/reliability

On a server each record also runs once. Without one, a record that was under way at a kill, or whose
result was not written yet, runs again.
"""

import json
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from math import ceil
from pathlib import Path

import pytest
import trio

from tests.command import PATIENCE, started_command, write_files
from tests.proof.share import share_of

# Of a run; with a small share of the soak it has fewer.
RECORDS = 20_000
FEWER = 5_000

# Seconds from the start of a run to its kill. The start takes half a second or more.
LONGEST = {RECORDS: 2.5, FEWER: 1.2}

# The server remembers all of them, so a key that comes again finds its job.
CONFIG = f"""
[pool]
workers = 8
[store]
keep_completed = {2 * RECORDS}
[handlers]
double = "records:double"
"""

# The ledger is one file for all records; a write of so few bytes is whole.
HANDLERS = r"""
import os

LEDGER = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

async def double(payload: int) -> int:
    os.write(LEDGER, b"%d\n" % payload)
    if payload % 10 == 0:
        raise ValueError(payload)
    return 2 * payload
"""

FILES = ("--type=double", "--out=out", "--failed=failed")


def times(fewest: int, most: int) -> pytest.MarkDecorator:
    """A few kills of runs with fewer records, and the share of many that the soak takes."""
    kills = ceil(share_of(most))
    many = pytest.param(kills, RECORDS if kills > fewest else FEWER, marks=pytest.mark.soak)
    return pytest.mark.parametrize(
        ("kills", "records"), [(fewest, FEWER), many], ids=["few", "many"]
    )


@times(3, 50)
@pytest.mark.parametrize("served", [True, False], ids=["server", "no server"])
async def test_killed_run_gives_each_record_one_line(
    tmp_path: Path, report: Path, kills: int, records: int, *, served: bool
) -> None:
    chance = random.Random(kills)  # noqa: S311  (the seed repeats the times)
    (tmp_path / "records.py").write_text(HANDLERS)
    write_files(tmp_path, config=CONFIG)
    (tmp_path / "input").write_text("".join(f"{number}\n" for number in range(1, records + 1)))
    bind = f"unix:{tmp_path}/server.sock"
    at = () if served else ("--config=config.toml",)
    killed = runs = torn = done_at_kills = 0

    with trio.fail_after(PATIENCE + 20 * kills):
        while killed < kills:
            async with AsyncExitStack() as stack:
                if served:
                    server = await stack.enter_async_context(
                        started_command(
                            tmp_path, config=CONFIG, environment={"TRIO_JOBS_HTTP_BIND": bind}
                        )
                    )
                    await server.wait_for_line("Running on")
                of_this_run = 0
                while True:
                    async with started_command(
                        tmp_path,
                        *("run", "input", *FILES, *at, "--resume", "--quiet"),
                        config=CONFIG,
                        environment={"TRIO_JOBS_URL": bind},
                    ) as run:
                        with trio.move_on_after(chance.uniform(0, LONGEST[records])) as time:
                            status = await run.wait_exit()
                        if time.cancelled_caught and killed < kills:
                            run.send(signal.SIGKILL)
                            status = await run.wait_exit()
                        elif time.cancelled_caught:
                            status = await run.wait_exit(300)
                    if status == 3:
                        break
                    assert status == -signal.SIGKILL, run.log
                    killed += 1
                    of_this_run += 1
                    out = content(tmp_path / "out")
                    torn += not out.endswith(b"\n") and bool(out)
                    done_at_kills += out.count(b"\n")
            runs += 1
            check(tmp_path, records, kills=of_this_run, served=served)
            for name in ("out", "out.run", "failed", "ledger"):
                (tmp_path / name).unlink()

    where = "on a server" if served else "without a server"
    with (report / "killed_runs.txt").open("a") as lines:
        lines.write(
            f"{where}: {kills} kills in {runs} runs of {records} records, after"
            f" {done_at_kills // kills} of them in the mean; {torn} torn lines; each record has"
            " one line\n"
        )


def content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def check(folder: Path, records: int, *, kills: int, served: bool) -> None:
    """Look at the files of a run that has come to its end."""
    results = [json.loads(line) for line in content(folder / "out").splitlines()]
    failed = [json.loads(line) for line in content(folder / "failed").splitlines()]
    ran = Counter(map(int, content(folder / "ledger").split()))
    everything = list(range(1, records + 1))

    assert sorted(each["line"] for each in results) == everything
    for each in results:
        number = each["line"]
        assert each["outcome"] == ("failed" if number % 10 == 0 else "succeeded")
        assert each.get("result", 0) == (0 if number % 10 == 0 else 2 * number)
    assert sorted(each["line"] for each in failed) == everything[9::10]
    assert all(each["payload"] == each["line"] for each in failed)
    assert sorted(ran) == everything
    assert max(ran.values()) <= (1 if served else kills + 1)
