"""`GET /metrics` under the command: when it is there, and what Prometheus' own tool says of it."""

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from tests.command import MODULE, patched, run_command, running_command
from tests.docs.machine import need
from tests.metrics.support import samples

WORK = """
import sys

async def imported(payload):
    return sorted({each.partition(".")[0] for each in sys.modules} & {"prometheus_client"})
"""
CONFIG = """
[handlers]
imported = "work:imported"
"""

# As where the extra is not installed.
WITHOUT_EXTRA = patched("sys.modules['prometheus_client'] = None")


def config(metrics: str = "") -> str:
    return f"[metrics]\n{metrics}\n{CONFIG}"


async def test_numbers_are_there_by_default_and_the_requests_are_counted(tmp_path: Path) -> None:
    async with running_command(tmp_path, config=config(), handlers=WORK) as server:
        job = await server.submit("imported")
        await server.client.get(f"/jobs/{job}", headers={"Prefer": "wait=10"})
        await server.client.get("/nowhere")
        answer = await server.client.get("/metrics")
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    found = samples(answer.content)
    counted = {
        tuple(sorted(dict(labels).values())): value
        for (name, labels), value in found.items()
        if name == "http_requests_total"
    }
    assert counted == {
        ("/jobs", "201", "POST"): 1,
        ("/jobs/{id}", "200", "GET"): 1,
        ("(other)", "404", "GET"): 1,
    }
    assert found["event_loop_lag_seconds", frozenset()] >= 0


async def test_open_connections_and_streams_of_events_are_told(tmp_path: Path) -> None:
    async with (
        running_command(tmp_path, config=config(), handlers=WORK) as server,
        server.client.stream("GET", "/events"),
    ):
        during = samples((await server.client.get("/metrics")).content)

    assert during["event_streams", frozenset()] == 1
    assert during["connections", frozenset()] == 2


@pytest.mark.parametrize("slow_step", [0, 0.5])
async def test_longest_step_does_not_need_the_warning(tmp_path: Path, slow_step: float) -> None:
    text = f"{config()}\nblock = 'work:block'\n[logging]\nslow_step = {slow_step}"
    block = "import time\nasync def block(payload): time.sleep(0.3)\n"
    async with running_command(tmp_path, config=text, handlers=WORK + block) as server:
        await server.client.get("/metrics")
        job = await server.submit("block")
        await server.client.get(f"/jobs/{job}", headers={"Prefer": "wait=10"})
        answer = await server.client.get("/metrics")

    assert samples(answer.content)["event_loop_lag_seconds", frozenset()] >= 0.3


async def test_promtool_finds_nothing_to_say(tmp_path: Path) -> None:
    need("promtool")
    async with running_command(tmp_path, config=config(), handlers=WORK) as server:
        await server.client.get("/jobs")
        answer = await server.client.get("/metrics")

    checked = await trio.run_process(
        ["promtool", "check", "metrics"],
        stdin=answer.content,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def imported_by(
    tmp_path: Path, text: str, command: Sequence[str] = MODULE
) -> tuple[object, int]:
    """What the server has imported for metrics, and the status of its answer to a scrape."""
    async with running_command(tmp_path, config=text, handlers=WORK, command=command) as server:
        job = await server.submit("imported")
        shown = await server.client.get(f"/jobs/{job}", headers={"Prefer": "wait=10"})
        answer = await server.client.get("/metrics")
    return shown.json()["result"], answer.status_code


async def test_server_without_metrics_imports_nothing_for_them(tmp_path: Path) -> None:
    assert await imported_by(tmp_path, config("enabled = false")) == ([], 404)
    assert await imported_by(tmp_path, config("enabled = true")) == (["prometheus_client"], 200)


async def test_without_the_extra_there_are_no_metrics_unless_they_are_asked_for(
    tmp_path: Path,
) -> None:
    _, status = await imported_by(tmp_path, config(), WITHOUT_EXTRA)
    assert status == 404

    for arguments in ((), ("--check",)):
        ended = await run_command(
            tmp_path,
            *arguments,
            config=config("enabled = true"),
            handlers=WORK,
            command=WITHOUT_EXTRA,
        )
        assert ended.status == 2
        [line] = ended.lines
        assert line.startswith(
            "trio-jobs: config.toml: metrics.enabled: the extra `metrics` cannot be imported: "
        )


@pytest.mark.parametrize(("open_", "statuses"), [("false", [401, 403]), ("true", [200, 200])])
async def test_scrape_needs_a_token_that_may_read_unless_metrics_are_open(
    tmp_path: Path, open_: str, statuses: list[int]
) -> None:
    (tmp_path / "tokens").write_text("read r34d prometheus\nsubmit 5ubmit shop\n")
    text = f"{config(f'open = {open_}')}\n[http]\ntoken_file = 'tokens'\n"
    async with running_command(tmp_path, config=text, handlers=WORK) as server:

        async def status(path: str, token: str = "") -> int:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return (await server.client.get(path, headers=headers)).status_code

        assert [await status("/metrics"), await status("/metrics", "5ubmit")] == statuses
        assert await status("/metrics", "r34d") == 200
        assert await status("/jobs") == 401
        assert await status("/metrics/") == 401
