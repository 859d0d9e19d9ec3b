"""What a stop had to cut off is in a file, and one upload takes it up again: each job once."""

import json
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import (
    Command,
    Gate,
    configuration,
    ledger,
    run_command,
    running_command,
)
from tests.system.test_stopping import FAULT_IN_THE_STORE, SLOW_LOG
from tests.test_leftovers import submissions

APART = 0.3  # seconds between two signals, for both to count


def shop(workers: int = 1, *, grace_period: float = 60, work: str = "at_the_gate") -> str:
    config = configuration(work, "quick", workers=workers, grace_period=grace_period)
    return config.replace("[pool]", '[pool]\nleftovers = "left.jsonl"', 1)


async def take_up(server: Command, path: Path) -> dict[str, int]:
    """One `curl -T`, as the page about stopping has it."""
    process = await trio.run_process(
        ["curl", "-sS", "-T", str(path), "-X", "POST", f"{server.url}/jobs/stream"],
        capture_stdout=True,
    )
    answer: dict[str, int] = json.loads(process.stdout)
    return answer


@pytest.mark.smoke
async def test_one_upload_takes_up_what_was_left_and_each_job_runs_once(tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        async with running_command(tmp_path, config=shop(grace_period=0.3)) as server:
            for n in range(30):
                await server.submit("at_the_gate", n)
            await server.wait_for_line("work at_the_gate")
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 1
        [line] = server.lines_with("leftovers_written")
        assert f"interrupted=1 not_started=29 interrupted_path={tmp_path}/left.interr" in line
        assert server.log.index("leftovers_written") < server.log.index("jobs_interrupted")
        gate.open()
        async with running_command(tmp_path, config=shop()) as server:
            await server.wait_for_lines(2, "leftovers_found")
            assert await take_up(server, tmp_path / "left.jsonl") == {"accepted": 29}
            assert await take_up(server, tmp_path / "left.interrupted.jsonl") == {"accepted": 1}
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0

    assert Counter(ledger(tmp_path)) == Counter(map(str, range(30)))


@pytest.mark.parametrize(
    ("work", "number", "lines", "status"),
    [
        pytest.param("at_the_gate", signal.SIGTERM, ["draining", "stopped"], 1, id="second signal"),
        pytest.param(
            "stubborn",
            signal.SIGTERM,
            ["draining", "cancellation_swallowed", "third signal"],
            70,
            id="third signal",
        ),
        pytest.param("at_the_gate", signal.SIGQUIT, ["leftovers_written"], 70, id="SIGQUIT"),
        pytest.param("shielded", signal.SIGTERM, ["hard limit"], 70, id="hard limit"),
    ],
)
async def test_each_end_that_leaves_jobs_leaves_the_files(
    tmp_path: Path, work: str, number: signal.Signals, lines: list[str], status: int
) -> None:
    config = shop(work=work, grace_period=0.1 if work == "shielded" else 60).replace("2.0", "0.1")
    with Gate(tmp_path):
        async with running_command(tmp_path, config=config) as server:
            for n in range(2):
                await server.submit(work, n)
            await server.wait_for_line(f"work {work}")
            for line in lines:
                server.send(number)
                await server.wait_for_line(line)
                await trio.sleep(APART)
            assert await server.wait_exit() == status

    assert server.lines_with("leftovers_written interrupted=1 not_started=1")
    assert submissions(tmp_path / "left.jsonl") == [(work, b"1")]
    assert submissions(tmp_path / "left.interrupted.jsonl") == [(work, b"0")]


async def test_failure_of_the_pool_leaves_a_file(tmp_path: Path) -> None:
    with Gate(tmp_path):
        async with running_command(tmp_path, config=shop(), patch=FAULT_IN_THE_STORE) as server:
            content = '[{"type":"quick","payload":0},{"type":"at_the_gate","payload":1}]'
            with suppress(httpx.HTTPError):
                await server.client.post("/jobs/batch", content=content)
            assert await server.wait_exit() == 1

    assert server.lines_with("CRITICAL", "pool_failed")
    assert submissions(tmp_path / "left.jsonl") == [("at_the_gate", b"1")]
    assert submissions(tmp_path / "left.interrupted.jsonl") == [("quick", b"0")]


async def test_stop_that_leaves_nothing_leaves_no_file(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=shop()) as server:
        await server.submit("quick")
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    assert not server.lines_with("leftovers")
    assert list(await trio.Path(tmp_path).glob("left*")) == []


async def test_folder_that_has_gone_is_told_and_the_jobs_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    config = shop(grace_period=0.1).replace("left.jsonl", "there/left.jsonl")
    with Gate(tmp_path):
        async with running_command(tmp_path, config=config) as server:
            job_id = await server.submit("at_the_gate", 0)
            await server.wait_for_line("work at_the_gate")
            folder.rmdir()
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 1

    [line] = server.lines_with("leftovers_not_written")
    reason = f'reason="{folder}/left.interrupted.jsonl: No such file or directory"'
    assert f"{reason} interrupted=0 not_started=0" in line
    assert server.lines_with("jobs_interrupted", job_id)


def many_jobs(tmp_path: Path, job_type: str) -> Path:
    """A file of 100,000 jobs; in their type `{}` is their number."""
    path = tmp_path / "jobs.jsonl"
    with path.open("w") as file:
        for n in range(100_000):
            file.write(f'{{"type":"{job_type.format(n)}","payload":{n}}}\n')
    return path


async def test_a_hundred_thousand_jobs_are_written_and_named_in_time(tmp_path: Path) -> None:
    config = shop(grace_period=0.3).replace("workers = 1", "workers = 1\nbuffer_size = 100000")
    config = config.replace("= 2.0", "= 50.0")  # a busy machine takes seconds for so many
    jobs = many_jobs(tmp_path, "at_the_gate")
    with Gate(tmp_path):
        async with running_command(tmp_path, config=config) as server:
            assert await take_up(server, jobs) == {"accepted": 100_000}
            await server.wait_for_line("work at_the_gate")
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 1

    assert server.lines_with("leftovers_written interrupted=1 not_started=99999")
    assert not server.lines_with("not_all_named")
    assert (tmp_path / "left.jsonl").read_text() == jobs.read_text().partition("\n")[2]


# The clocks after the report's own would end a server that hardly gets a processor.
LATE_CLOCKS = """
from trio_jobs.shutdown import hard_limit
hard_limit.FAULTHANDLER_AFTER_SECONDS = hard_limit.SIGALRM_AFTER_SECONDS = 60
"""


@pytest.mark.parametrize("end", ["hard limit", "second signal", "SIGQUIT"])
async def test_a_hundred_thousand_jobs_of_as_many_types_are_accounted_for_in_time(
    tmp_path: Path, end: str
) -> None:
    work = "shielded" if end == "hard limit" else "at_the_gate"
    config = shop(grace_period=60 if end == "second signal" else 0.3, work=work)
    config = config.replace("workers = 1", "workers = 1\nbuffer_size = 100000")
    config = config.replace("[handlers]", f'[handlers]\ndefault = "work:{work}"')
    with Gate(tmp_path):
        config = config.replace("= 2.0", "= 0.5")
        async with running_command(tmp_path, config=config, patch=LATE_CLOCKS) as server:
            assert await take_up(server, many_jobs(tmp_path, "type{}")) == {"accepted": 100_000}
            server.send(signal.SIGQUIT if end == "SIGQUIT" else signal.SIGTERM)
            if end == "second signal":
                await server.wait_for_line("draining")
                await trio.sleep(APART)
                server.send(signal.SIGTERM)
            assert await server.wait_exit() == (1 if end == "second signal" else 70)

    assert bool(server.lines_with("hard limit reached")) == (end == "hard limit")
    assert sum(named_and_counted(server)) == 100_000


def named_and_counted(server: Command) -> tuple[int, int]:
    """How many jobs the log names, and how many more it counts."""
    lines = server.lines_with(" job_ids=")
    named = ",".join(line.partition(" job_ids=")[2] for line in lines).split(",")
    assert len(set(named)) == len(named)
    notes = server.lines_with("unfinished_jobs_not_all_named")
    return len(named) * bool(lines), sum(int(line.partition("count=")[2]) for line in notes)


@pytest.mark.parametrize(
    ("no_time", "named"),
    [
        pytest.param("trio_jobs.shutdown.hard_limit.REPORT_SECONDS = 0", 0, id="for any line"),
        pytest.param("trio_jobs.unfinished_report._SECONDS_AT_THE_LIMIT = -1", 0, id="for a name"),
        pytest.param(SLOW_LOG, range(7), id="beside a slow reader"),
    ],
)
@pytest.mark.parametrize("end", ["hard limit", "SIGQUIT"])
async def test_report_without_time_counts_the_jobs(
    tmp_path: Path, no_time: str, named: int | range, end: str
) -> None:
    work = "shielded" if end == "hard limit" else "at_the_gate"
    config = shop(grace_period=0.1, work=work).replace("= 2.0", "= 0.1")
    config = config.replace("[handlers]", f'[handlers]\ndefault = "work:{work}"')
    patch = f"import trio_jobs.unfinished_report, trio_jobs.shutdown.hard_limit\n{no_time}"
    with Gate(tmp_path):
        async with running_command(tmp_path, config=config, patch=patch) as server:
            ids = [await server.submit(f"type{n}", n) for n in range(20)]
            server.send(signal.SIGQUIT if end == "SIGQUIT" else signal.SIGTERM)
            assert await server.wait_exit() == 70

    some, others = named_and_counted(server)
    assert some + others == len(ids)
    assert some == named if isinstance(named, int) else some in named


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["start", "check"])
async def test_folder_that_is_not_there_is_a_mistake_in_the_configuration(
    tmp_path: Path, check: list[str]
) -> None:
    config = shop().replace("left.jsonl", "nowhere/left.jsonl")

    finished = await run_command(tmp_path, *check, config=config)

    folder = tmp_path / "nowhere"
    assert finished.status == 2
    assert finished.lines[-1] == (
        f"trio-jobs: pool.leftovers: the folder '{folder}' does not exist"
    )
