"""The command as a user meets it: its options, its log, its exit status, what it answers."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio

from tests.command import (
    MODULE,
    PATIENCE,
    SCRIPT,
    configuration,
    new_client,
    run_command,
    running_command,
    started_command,
    write_files,
)
from tests.support import NONE_DROPPED
from trio_jobs.cli import make_parser, run

ROOT = Path(__file__).parents[2]

NOBODY = 65534
# http.unix_mode, whether the client belongs to the server's group, and whether it gets in.
MODES = [
    ("0600", True, False),
    ("0660", True, True),
    ("0660", False, False),
    ("0666", False, True),
]


# The first minutes with it


@pytest.mark.smoke
async def test_shipped_configuration_answers_the_first_curl(tmp_path: Path) -> None:
    config = (ROOT / "config.toml").read_text()
    async with running_command(tmp_path, "--log-level=debug", config=config) as server:
        # As `curl -d` sends it.
        answer = await server.client.post(
            "/jobs",
            content='{"type":"email","payload":{}}',
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        submitted = answer.json()
        await server.wait_for_line("job_succeeded", submitted["id"])
        completed = await server.job(submitted["id"])
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/jobs/{submitted['id']}"
    assert submitted.keys() == {"id", "type", "status", "created_at"}
    assert submitted["type"] == "email"
    assert submitted["status"] == "pending"
    assert (completed["status"], completed["outcome"]) == ("completed", "succeeded")
    assert not server.lines_with("WARNING")


async def test_without_a_configuration_the_demonstration_runs_and_a_warning_says_so(
    tmp_path: Path,
) -> None:
    async with running_command(tmp_path) as server:
        await server.submit("anything")

    assert len(server.lines_with("WARNING", "no_handlers_configured", "trio_jobs.demo")) == 1
    assert len(server.lines_with("Running on")) == 1


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that all users may look into: pytest's own are closed to others."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be root, to be somebody else")
@pytest.mark.parametrize(("mode", "member", "let_in"), MODES)
async def test_group_may_connect_to_a_unix_socket_where_its_mode_says_so(
    tmp_path: Path, shared_folder: Path, mode: str, member: bool, let_in: bool
) -> None:
    path = f"{shared_folder}/s"
    environment = {"TRIO_JOBS_HTTP_BIND": f"unix:{path}", "TRIO_JOBS_HTTP_UNIX_MODE": mode}
    async with started_command(tmp_path, environment=environment) as server:
        await server.wait_for_line("Running on unix:")
        with trio.fail_after(PATIENCE):
            client = await trio.run_process(
                ["curl", "-sS", "--unix-socket", path, "http://localhost/health"],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                user=NOBODY,
                group=NOBODY,
                extra_groups=[os.getegid()] if member else [],
            )

    assert client.stdout == (b'{"status":"ok"}' if let_in else b"")
    assert (client.returncode == 0) is let_in


async def test_port_in_use_is_one_line_and_nothing_of_the_user_s_has_run(tmp_path: Path) -> None:
    async with running_command(tmp_path / "first") as first:
        address = first.url.removeprefix("http://")
        second = await run_command(
            tmp_path / "second",
            f"--bind={address}",
            config=configuration("quick"),
            handlers="import pathlib; pathlib.Path('imported').touch()",
        )

        assert second.status == 1
        assert len(second.lines) == 1
        assert address in second.lines[0]
        assert not (tmp_path / "second" / "imported").exists()
        assert (await first.client.get("/health")).status_code == 200


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
async def test_idle_server_does_not_wake_up(tmp_path: Path) -> None:
    def switches(pid: int) -> int:
        """How often the threads of a process have gone to sleep so far."""
        return sum(
            int(line.split()[1])
            for status in Path(f"/proc/{pid}/task").glob("*/status")
            for line in status.read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches")
        )

    async with running_command(tmp_path, "--log-level=debug", "--workers=100") as server:
        job_id = await server.submit("anything")
        await server.wait_for_line("job_succeeded", job_id)
        await server.client.aclose()
        server.client = new_client(server.url)
        before = switches(server.process.pid)
        await trio.sleep(1.5)  # not to wait for something: for nothing to happen in
        after = switches(server.process.pid)

    # Closing the connection wakes it a few times; something that polls would do so all the time.
    assert after - before < 10


@pytest.mark.parametrize("file", [False, True])
async def test_first_requests_and_jobs_import_nothing(file: bool, tmp_path: Path) -> None:
    # Out of descriptors an import fails, and with it the request or the job that needed it.
    command = (sys.executable, "-X", "importtime", "-m", "trio_jobs")
    config = configuration("quick", "in_thread", "fail")
    if file:
        config += '\n[store]\npath = "jobs.db"\n'
    async with running_command(tmp_path, config=config, command=command) as server:
        before = len(server.lines)
        await server.job(await server.submit("quick", {"a": [1.5]}))
        await server.submit("in_thread")
        await server.submit("fail", "no")
        for path in ("/jobs", "/jobs?limit=1", "/jobs/unknown", "/health/ready", "/nowhere"):
            await server.client.get(path)
        await server.client.post("/jobs", content="no JSON")
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    after = server.lines[before:]
    assert len([line for line in after if "job_failed" in line or "thread_ran" in line]) == 2
    assert [line for line in after if line.startswith("import time:")] == []
    # A server that keeps its jobs in memory pays for no file.
    assert file == any(re.search("import time:.*sqlite", line) for line in server.lines)


async def test_dropped_jobs_are_counted_and_logged(tmp_path: Path) -> None:
    config = configuration("fail", "quick") + "\n[store]\nkeep_completed = 0\nkeep_failed = 0\n"
    async with running_command(tmp_path, config=config) as server:
        for job_type in ("quick", "fail"):
            await server.run(job_type, "no")
        ready = (await server.client.get("/health/ready")).json()
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    assert ready["dropped"] == NONE_DROPPED | {"succeeded": 1, "failed": 1}
    lines = [line.partition(" ")[2] for line in server.lines_with("jobs_dropped")]
    assert lines == [
        "INFO trio_jobs.stores.drop_log jobs_dropped succeeded=1",
        "WARNING trio_jobs.stores.drop_log jobs_dropped failed=1",
    ]


# Options and environment


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(MODULE, id="python -m"),
        pytest.param(
            SCRIPT,
            id="script",
            marks=pytest.mark.skipif(not Path(*SCRIPT).exists(), reason="not installed"),
        ),
    ],
)
async def test_both_commands_find_handlers_beside_the_configuration(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    folder = tmp_path / "settings"
    write_files(folder, config=configuration("quick"))
    checked = await run_command(
        tmp_path / "elsewhere",
        "--check",
        f"--config={folder / 'config.toml'}",
        handlers="",  # a module of the same name in the current folder, but empty
        command=command,
    )

    assert (checked.status, checked.lines) == (0, [])
    assert '"quick" = "work:quick"' in checked.output


async def test_version(tmp_path: Path) -> None:
    shown = await run_command(tmp_path, "--version")

    assert (shown.status, shown.output) == (0, f"trio-jobs {version('trio-jobs')}\n")


async def test_every_option_goes_over_the_environment_and_that_over_the_file(
    tmp_path: Path,
) -> None:
    config = configuration("quick", "in_thread", workers=1, buffer_size=1, grace_period=1.5)
    environment = {
        "TRIO_JOBS_POOL_WORKERS": "2",
        "TRIO_JOBS_POOL_BUFFER_SIZE": "7",
        "TRIO_JOBS_HTTP_BIND": "nowhere.invalid:1",
        "TRIO_JOBS_LOGGING_LEVEL": "error",
        # What Kubernetes puts into a pod beside a service called trio-jobs.
        "TRIO_JOBS_PORT": "tcp://10.0.0.1:8080",
        "TRIO_JOBS_SERVICE_HOST": "10.0.0.1",
        "TRIO_JOBS_SERVICE_PORT": "8080",
        "TRIO_JOBS_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "TRIO_JOBS_PORT_8080_TCP_ADDR": "10.0.0.1",
        # And one that means nothing.
        "TRIO_JOBS_SPEED": "11",
    }
    options = [
        "--workers=3",
        "--bind=127.0.0.1:0",
        "--log-level=debug",
        "--log-format=json",
        "--config=config.toml",
    ]
    async with running_command(
        tmp_path, *options, config=config, environment=environment
    ) as server:
        ready = (await server.client.get("/health/ready")).json()
        in_loop = await server.submit("quick", "é\n\x1b[31m")
        in_thread = await server.submit("in_thread")
        await server.wait_for_line("job_succeeded", in_loop)
        await server.wait_for_line("job_succeeded", in_thread)
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    assert (ready["workers"], ready["buffer_size"]) == (3, 7)
    lines = [json.loads(line) for line in server.lines]
    assert all({"time", "level", "logger", "event"} <= line.keys() for line in lines)
    assert [line["reason"] for line in lines if line["event"] == "unknown_setting"] == [
        next(line["reason"] for line in lines if "TRIO_JOBS_SPEED" in str(line))
    ]
    ids = {line["event"]: line["job_id"] for line in lines if line["logger"] == "work"}
    assert ids == {"quick_ran": in_loop, "thread_ran": in_thread}
    assert {"job_id", "job_type", "worker", "duration"} <= next(
        line for line in lines if line["event"] == "job_succeeded"
    ).keys()


async def test_check_prints_the_settings_and_they_can_be_read_back(tmp_path: Path) -> None:
    config = configuration("quick", workers=4)
    first = await run_command(tmp_path, "--check", "--buffer-size=5", config=config)
    second = await run_command(tmp_path, "--check", config=first.output)

    assert (first.status, first.lines) == (0, [])
    assert "workers = 4\nbuffer_size = 5\n" in first.output
    assert second == first


SPREAD = """
[handlers]
both = "work:send"

[handlers.named]
call = "work:send"
spread = true

[handlers.value]
call = "work:send"
spread = false
run = "process"
"""


async def test_check_shows_the_payload_of_each_handler_and_the_server_takes_it(
    tmp_path: Path,
) -> None:
    handlers = "def send(to: str, copies: int = 1): return [to] * copies\n"
    checked = await run_command(tmp_path, "--check", config=SPREAD, handlers=handlers)
    async with running_command(
        tmp_path, "--log-level=debug", config=SPREAD, handlers=handlers
    ) as server:
        jobs = [
            await server.submit(type_, payload)
            for type_, payload in (("both", {"to": "a", "copies": 2}), ("value", "b"))
        ]
        for job_id in jobs:
            await server.wait_for_line("job_succeeded", job_id)
        results = [(await server.job(job_id))["result"] for job_id in jobs]

    members = (
        '{"type":"object","properties":{"to":{"type":"string"},"copies":{"type":"integer"'
        ',"default":1}},"required":["to"],"additionalProperties":false}'
    )
    assert f'# "both" = {members}\n# "named" = {members}\n# "value" = {{"type":"string"}}\n' in (
        checked.output
    )
    assert "spread = false" in checked.output
    assert results == [["a", "a"], ["b"]]


async def test_check_warns_of_a_variable_that_has_no_effect(tmp_path: Path) -> None:
    ended = await run_command(tmp_path, "--check", environment={"TRIO_JOBS_FOO": "1"})

    assert ended.status == 0
    assert ended.lines == ["trio-jobs: warning: TRIO_JOBS_FOO is not a setting and has no effect"]


# Mistakes

MISTAKES = {
    "a typo": ("[pool]\nwokers = 3", "", "pool.wokers is not a setting"),
    "no module": (
        '[handlers]\nx = "nowhere:f"',
        "",
        "handlers.x = 'nowhere:f': no module named 'nowhere'",
    ),
    "a module that fails": (
        '[handlers]\nx = "work:f"',
        "raise ValueError('two\\nlines')",
        "ValueError",
    ),
    "a type of many lines": ('[handlers]\n"a\\nb" = "nowhere:f"', "", "nowhere"),
    "a module that exits": ('[handlers]\nx = "work:f"', "raise SystemExit(0)", "SystemExit"),
    "no function": ('[handlers]\nx = "work:f"', "", "has no 'f'"),
    "no callable": ('[handlers]\nx = "work:f"', "f = 1", "is not callable: 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_mistake_is_one_clear_line_and_status_2(tmp_path: Path, mistake: str) -> None:
    config, handlers, expected = MISTAKES[mistake]
    # Another program on this machine may serve on the default port.
    environment = {"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}
    finished = await run_command(
        tmp_path, config=config, handlers=handlers, environment=environment
    )

    assert finished.status == 2
    assert len(finished.lines) == 1, finished.lines
    assert finished.lines[0].startswith("trio-jobs: ")
    assert expected in finished.lines[0]


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(None, id="closed"),
        pytest.param(
            Path("/dev/full"),
            id="full",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's"),
        ),
    ],
)
def test_mistake_has_its_status_even_when_nobody_can_be_told(
    stream: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if stream is None:
        monkeypatch.setattr(sys, "stderr", None)  # so Python has it
        assert run(["--workers=0"]) == 2
        return
    with stream.open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(full, write_through=True))

        assert run(["--workers=0"]) == 2


DESCRIPTORS = """
import os
with open("seen", "w") as seen:
    seen.write(" ".join(os.readlink(f"/proc/self/fd/{n}") for n in range(3)))
def work(_payload): ...
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        ("<&- >&- 2>&-", {"/dev/null"}),
        ("<&- 2>&-", {"/dev/null"}),
        ("", {"/dev/null", "pipe"}),  # what the test gives it
    ],
)
async def test_closed_standard_descriptors_lead_nowhere(
    tmp_path: Path, closed: str, expected: set[str]
) -> None:
    write_files(tmp_path, config='handlers.a = "work:work"', handlers=DESCRIPTORS)
    os.mkfifo(tmp_path / "seen")
    command = f"exec {sys.executable} -m trio_jobs {closed}"
    async with started_command(tmp_path, handlers=DESCRIPTORS, command=("sh", "-c", command)):
        with trio.fail_after(PATIENCE):
            # Written once the sockets are bound, when the handlers are imported.
            seen = await trio.to_thread.run_sync((tmp_path / "seen").read_text)

    assert {name.partition(":")[0] for name in seen.split()} == expected


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--wrkers=4", "unrecognized arguments: --wrkers=4, the nearest is --workers"),
        ("--worker", "unrecognized arguments: --worker, the nearest is --workers"),
        ("--zzz", "unrecognized arguments: --zzz"),
        ("extra", "unrecognized arguments: extra"),
        ("--workers", "argument --workers: expected one argument"),
    ],
)
def test_unknown_option_is_one_line_and_status_2(option: str, complaint: str) -> None:
    complaints: list[str] = []
    with pytest.raises(SystemExit) as ended:
        make_parser(complaints.append).parse_args([option])

    assert (ended.value.code, complaints) == (2, [complaint])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("output", ["> /dev/full", ">&-"])
def test_check_that_cannot_be_shown_is_one_line_and_status_1(tmp_path: Path, output: str) -> None:
    command = f"exec '{sys.executable}' -m trio_jobs --check {output}"

    ended = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False)

    assert ended.returncode == 1
    [line] = ended.stderr.decode().splitlines()
    assert line.startswith("trio-jobs: the settings are right, but cannot be shown")


SHOP = """
class Refused(Exception): pass
def send(payload): pass
"""


@pytest.mark.parametrize(
    ("option", "retry", "message"),
    [
        (
            "--check",
            'on = ["OSError", "shop.Refusd"]',
            " = 'shop:send': retry.on: there is no 'shop.Refusd', the nearest is 'shop.Refused'",
        ),
        (
            "--log-level=info",
            'never = "shop.No"',
            " = 'shop:send': retry.never: there is no 'shop.No'",
        ),
        (
            "--check",
            'on = "OSError"',
            " = 'shop:send': retry.on has no effect: retry.attempts is 1",
        ),
        ("--check", "attempts = 0", ".retry.attempts must be an integer from 1 to 1000, got 0"),
    ],
    ids=["on", "never", "no_effect", "attempts"],
)
async def test_a_mistake_in_a_retry_policy_is_status_2_and_one_line(
    option: str, retry: str, message: str, tmp_path: Path
) -> None:
    config = f'[handlers.send]\ncall = "shop:send"\n[handlers.send.retry]\n{retry}\n'
    (tmp_path / "shop.py").write_text(SHOP)

    finished = await run_command(tmp_path, option, config=config)

    assert finished.status == 2
    [line] = finished.lines
    assert line.endswith(f"config.toml: handlers.send{message}")


@pytest.mark.parametrize(
    ("setting", "range_"),
    [
        ("pool.max_waiting = -1", "an integer from 0 to 10000000, got -1"),
        ("store.keep_failed = true", "an integer from 0 to 10000000, got True"),
        ("handlers.send.max_running = 0", "an integer from 1 to 100000, got 0"),
    ],
)
async def test_a_wrong_number_of_jobs_is_status_2_and_one_line(
    setting: str, range_: str, tmp_path: Path
) -> None:
    finished = await run_command(
        tmp_path, config=f'handlers.send.call = "no_module:send"\n{setting}\n'
    )

    assert finished.status == 2
    [line] = finished.lines
    assert line.endswith(f"config.toml: {setting.partition(' ')[0]} must be {range_}")
