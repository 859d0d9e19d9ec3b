"""SIGHUP through the real command: it reloads, and never ends the server."""

import os
import shutil
import signal
import socket
import ssl
import stat
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import (
    PATIENCE,
    Command,
    Gate,
    configuration,
    ledger,
    run_command,
    running_command,
)
from tests.system.test_front_door import CERTIFICATE, KEY

HANGUP = signal.SIGHUP
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate")

# A handler's module may change the current folder.
ELSEWHERE = """
import os
os.chdir("/")

async def quick(payload): return payload
"""


async def served_certificate(server: Command) -> str:
    """The certificate that a new connection gets, in PEM."""
    url = httpx.URL(server.url)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with trio.fail_after(PATIENCE):
        stream = trio.SSLStream(await trio.open_tcp_stream(url.host, url.port or 443), context)
        async with stream:
            await stream.do_handshake()
            return ssl.DER_cert_to_PEM_cert(stream.getpeercert(binary_form=True))


async def statuses(server: Command, *tokens: str) -> list[int]:
    """What requests with these tokens get, over a connection that may be open already."""
    return [
        (await server.client.get("/jobs", headers={"Authorization": f"Bearer {token}"})).status_code
        for token in tokens
    ]


async def test_tokens_are_replaced_and_a_bad_file_leaves_the_old_ones(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("read first-token\n")
    config = '[http]\ntoken_file = "tokens"\n[handlers]\nquick = "work:quick"'

    async with running_command(tmp_path, config=config, handlers=ELSEWHERE) as server:
        before = await statuses(server, "first-token", "second-token")
        file.write_text("read first-token\nread second-token ann\n")
        server.send(HANGUP)
        await server.wait_for_line("reloaded what=tokens")
        both = await statuses(server, "first-token", "second-token")
        file.write_text("submit second-token ann\n")
        server.send(HANGUP)
        await server.wait_for_lines(2, "reloaded what=tokens")
        after = await statuses(server, "first-token", "second-token")
        bad = []
        for count, text in enumerate(["root second-token", "", "read second-token\n" * 2], 1):
            file.write_text(text)
            server.send(HANGUP)
            bad.append((await server.wait_for_lines(count, "reload_failed"))[-1])
            await server.wait_for_lines(count, "reloaded what=nothing")
        file.unlink()
        server.send(HANGUP)
        bad.append((await server.wait_for_lines(4, "ERROR", "reload_failed what=tokens"))[-1])
        kept = await statuses(server, "first-token", "second-token")
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    assert (before, both, after, kept) == ([200, 401], [200, 200], [401, 403], [401, 403])
    assert all(str(file) in line for line in bad)
    assert "second-token" not in server.log


def write_pair(folder: Path, certificate: Path, key: Path) -> str:
    """Put the pair where the server reads it; the certificate, in PEM."""
    shutil.copy(certificate, folder / "server.crt")
    shutil.copy(key, folder / "server.key")
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(certificate.read_text()))


@needs_openssl
async def test_certificate_is_replaced_and_a_torn_pair_leaves_the_old_one(tmp_path: Path) -> None:
    new, new_key = tmp_path / "new.crt", tmp_path / "new.key"
    make = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    make += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    make += ["-keyout", str(new_key), "-out", str(new)]
    await trio.run_process(make, capture_stderr=True)
    old_text = write_pair(tmp_path, CERTIFICATE, KEY)
    config = '[http]\ncertfile = "server.crt"\nkeyfile = "server.key"\n'
    config += '[handlers]\nquick = "work:quick"'

    async with running_command(tmp_path, config=config, handlers=ELSEWHERE) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        trusted = ssl.create_default_context(cafile=str(CERTIFICATE))
        kept_open = httpx.Limits(keepalive_expiry=None)
        async with httpx.AsyncClient(
            base_url=url, verify=trusted, limits=kept_open, timeout=PATIENCE
        ) as kept:
            await kept.get("/health")
            write_pair(tmp_path, new, KEY)
            server.send(HANGUP)
            line = await server.wait_for_line("ERROR", "reload_failed", "what=certificate")
            await server.wait_for_line("reloaded what=nothing")
            torn = await served_certificate(server)
            new_text = write_pair(tmp_path, new, new_key)
            server.send(HANGUP)
            await server.wait_for_line("reloaded what=certificate")
            replaced = await served_certificate(server)
            # A connection that was open before goes on.
            answer = await kept.post("/jobs", json={"type": "quick"})

        (tmp_path / "server.key").unlink()
        server.send(HANGUP)
        missing = await server.wait_for_lines(2, "reload_failed")
        kept_after = await served_certificate(server)

    assert str(tmp_path / "server.crt") in line
    assert "No such file" in missing[1]
    assert old_text != new_text
    assert (torn, replaced, kept_after) == (old_text, new_text, new_text)
    assert answer.status_code == 201


async def test_signals_in_a_row_end_nothing(tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        async with running_command(tmp_path, config=configuration("at_the_gate")) as server:
            await server.submit("at_the_gate", "job")
            await server.wait_for_line("work at_the_gate")
            for count in range(1, 5):  # far enough apart to count, if they counted
                server.send(HANGUP)
                await server.wait_for_lines(count, "reloaded")
                await trio.sleep(0.25)
            assert (await server.client.get("/health/ready")).status_code == 200
            gate.open()
            server.send(signal.SIGTERM)

            assert await server.wait_exit() == 0
            assert ledger(tmp_path) == ["job"]
            assert not server.lines_with("jobs_interrupted")


async def test_signal_during_the_start_reloads_after_it(tmp_path: Path) -> None:
    handlers = "import signal\nsignal.raise_signal(signal.SIGHUP)\nasync def quick(_): pass"

    async with running_command(
        tmp_path, config=configuration("quick"), handlers=handlers
    ) as server:
        await server.wait_for_line("reloaded")
        await server.submit("quick")
        server.send(signal.SIGTERM)

        assert await server.wait_exit() == 0


async def test_signal_before_the_configuration_is_read_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(
        "import importlib.abc, signal, sys\n"
        "class Signals(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'trio':\n"
        "            signal.raise_signal(signal.SIGHUP)\n"
        "sys.meta_path.insert(0, Signals())\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
        async with running_command(tmp_path, config=configuration("quick")) as server:
            await server.wait_for_line("reloaded")
            await server.submit("quick", "job")
            server.send(signal.SIGTERM)

            assert await server.wait_exit() == 0
    assert ledger(tmp_path) == ["job"]


async def test_signal_during_the_drain_does_not_hasten_it(tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        config = configuration("at_the_gate", grace_period=60)
        async with running_command(tmp_path, config=config) as server:
            await server.submit("at_the_gate", "job")
            await server.wait_for_line("work at_the_gate")
            server.send(signal.SIGTERM)
            await server.wait_for_line("draining")
            for count in (1, 2):
                await trio.sleep(0.25)
                server.send(HANGUP)
                await server.wait_for_lines(count, "reloaded")
            gate.open()

            assert await server.wait_exit() == 0
            assert ledger(tmp_path) == ["job"]


BLOCKS = """
import logging
import os

log = logging.getLogger(__name__)

async def block(_):
    log.info("blocks")
    with open("gate", "rb", buffering=0) as gate:
        gate.read(1)
"""


async def test_signal_reaches_a_server_whose_event_loop_is_blocked(tmp_path: Path) -> None:
    with Gate(tmp_path) as gate:
        config = '[handlers]\nblock = "work:block"'
        async with running_command(tmp_path, config=config, handlers=BLOCKS) as server:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.submit, "block")
                await server.wait_for_line("work blocks")
                server.send(HANGUP)
                gate.open()
            await server.wait_for_line("reloaded")
            server.send(signal.SIGTERM)

            assert await server.wait_exit() == 0


IN_A_CHILD = """
import logging
import os
import signal
import time

log = logging.getLogger(__name__)

def separate(_):
    log.info("separate")
    with open("gate", "rb", buffering=0) as gate:
        gate.read(1)
    return "unharmed"

def fork(_):
    child = os.fork()
    if child == 0:
        time.sleep(60)
    os.kill(child, signal.SIGHUP)
    return os.WTERMSIG(os.waitpid(child, 0)[1])
"""


async def test_signal_to_the_whole_group_harms_no_job_in_a_process(tmp_path: Path) -> None:
    config = "[handlers]\nfork = 'work:fork'\n"
    config += "separate = { call = 'work:separate', run = 'process' }"
    with Gate(tmp_path) as gate:
        async with running_command(tmp_path, config=config, handlers=IN_A_CHILD) as server:
            job_id = await server.submit("separate")
            await server.wait_for_line("work separate")
            server.send_to_group(HANGUP)
            await server.wait_for_line("reloaded")
            gate.open()
            job = (await server.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=30"})).json()
            # A copy of the server has Python's own handlers: the signal ends it, and it alone.
            forked = await server.run("fork")

    assert job["result"] == "unharmed"
    assert forked["result"] == HANGUP


# What a log line becomes on its way: a long one, a program's, a process's; from a folder that is
# not the one of the start. The fields are longer than a write.
WITH_LOG = """
import logging
import os
import subprocess
import sys

os.chdir("/")
log = logging.getLogger(__name__)
LONG = {name: "x" * 1900 for name in "abcdef"}

async def quick(_):
    log.info("ran", extra=LONG)

def raw(payload):
    os.write(2, f"raw {payload}\\n".encode())
    print("printed", payload, file=sys.stderr, flush=True)
    subprocess.run(["sh", "-c", f"echo program {payload} >&2"])
    log.info("logged", extra={"payload": payload})
"""
LOGS = """
[logging]
file = "logs/server.log"
[handlers]
quick = "work:quick"
raw = "work:raw"
raw_in_process = { call = "work:raw", run = "process" }
"""


# The log is a file that a test cannot wait for: each short line goes to the old standard error too.
SHOWN = """
from trio_jobs.logs.writer import LogWriter
shown, handle = os.dup(2), LogWriter.handle
def handle_and_show(self, record):
    handled = handle(self, record)
    if record.msg != "ran":
        os.write(shown, self._formatter.render(record))
    return handled
LogWriter.handle = handle_and_show
"""


@asynccontextmanager
async def logging_command(
    folder: Path, *, config: str = LOGS, handlers: str | None = WITH_LOG
) -> AsyncIterator[Command]:
    """A command whose log is ``logs/server.log``."""
    (folder / "logs").mkdir()
    async with running_command(folder, config=config, handlers=handlers, patch=SHOWN) as server:
        yield server


def moved(folder: Path, number: int) -> Path:
    """Move the log away, as logrotate does; its new path."""
    return (folder / "logs/server.log").rename(folder / f"logs/server.log.{number}")


async def test_no_line_is_lost_or_torn_when_the_log_is_moved_under_load(tmp_path: Path) -> None:
    ids: list[str] = []

    async def submit() -> None:
        while not enough.is_set():
            ids.append(await server.submit("quick"))

    enough = trio.Event()
    async with logging_command(tmp_path) as server:
        with trio.fail_after(2 * PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(submit)
                for number in range(1, 6):
                    for _ in range(25):
                        await server.run("quick")
                    moved(tmp_path, number)
                    server.send(HANGUP)
                    await server.wait_for_lines(number, "reloaded what=log_file")
                enough.set()
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0

    paths = sorted((tmp_path / "logs").iterdir())
    files = [path.read_text().splitlines() for path in paths]
    lines = [line for file in files for line in file]
    ran = [line for line in lines if " ran " in line]
    # The runs between two moves have ids of their own.
    found = Counter(line.rpartition("job_id=")[2].split()[0] for line in ran)
    assert ids
    assert {job_id: found[job_id] for job_id in ids} == dict.fromkeys(ids, 1)
    assert len(found) == len(ran) == len(ids) + 5 * 25
    assert all(line[:2] == "20" and line[23] == "Z" for line in lines)
    assert all(len(line) > 6 * 1900 for line in ran)
    assert len(files) == 6
    for after in (files[0], *files[2:]):  # each that a reload has opened
        assert after[0].endswith("reloaded what=log_file")
    assert files[0][-1].partition("bootstrap ")[2].startswith("stopped status=0")
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} <= {0o640, 0o600}


async def test_all_that_goes_to_standard_error_is_in_the_log_file(tmp_path: Path) -> None:
    async with logging_command(tmp_path) as server:
        await server.run("raw", "one")
        await server.run("raw_in_process", "two")
        old = moved(tmp_path, 1)
        server.send(HANGUP)
        await server.wait_for_line("reloaded what=log_file")
        await server.run("raw", "three")
        await server.run("raw_in_process", "four")
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    first, second = old.read_text(), (tmp_path / "logs/server.log").read_text()
    for number in ("one", "two"):
        for word in ("raw", "printed", "program"):
            assert f"{word} {number}\n" in first
        assert f"payload={number}" in first
    for word in ("raw", "printed", "program"):
        assert f"{word} three\n" in second
        assert f"{word} four\n" in first  # the process has begun with the old file
    assert "payload=three" in second
    assert "payload=four" in second


async def test_log_file_that_cannot_be_opened_leaves_the_old_one(tmp_path: Path) -> None:
    async with logging_command(tmp_path) as server:
        (tmp_path / "logs").rename(tmp_path / "gone")
        server.send(HANGUP)
        line = await server.wait_for_line("ERROR", "reload_failed what=log_file")
        await server.wait_for_line("reloaded what=nothing")
        await server.run("raw", "kept")
        (tmp_path / "logs").mkdir()
        server.send(HANGUP)
        await server.wait_for_line("reloaded what=log_file")
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

    old = (tmp_path / "gone/server.log").read_text()
    assert line in old
    assert "raw kept\n" in old
    assert "payload=kept" in old
    assert "stopped" not in old
    assert f"cannot open the log file '{tmp_path}/logs/server.log': No such file" in line
    assert "stopped status=0" in (tmp_path / "logs/server.log").read_text()


async def test_hard_limits_report_is_in_the_file_of_the_last_reload(tmp_path: Path) -> None:
    config = configuration("shielded", grace_period=0.2, graceful_timeout=0.1)
    config = f'[logging]\nfile = "logs/server.log"\n{config}'

    async with logging_command(tmp_path, config=config, handlers=None) as server:
        job_id = await server.submit("shielded")
        await server.wait_for_line("shielded_began")
        old = moved(tmp_path, 1)
        server.send(HANGUP)
        await server.wait_for_line("reloaded what=log_file")
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 70

    report = (tmp_path / "logs/server.log").read_text().partition("hard limit reached")[2]
    assert job_id in report
    assert "hard limit" not in old.read_text()


async def test_standard_error_that_a_module_has_redirected_stays_where_it_is(
    tmp_path: Path,
) -> None:
    redirect = 'os.dup2(os.open("own", os.O_WRONLY | os.O_CREAT), 2)\nos.chdir("/")'
    handlers = WITH_LOG.replace('os.chdir("/")', redirect)

    async with logging_command(tmp_path, handlers=handlers) as server:
        moved(tmp_path, 1)
        server.send(HANGUP)
        await server.wait_for_line("reloaded what=log_file")
        await server.run("raw", "mine")
        await server.wait_for_line("payload=mine")

    assert "raw mine\n" in (tmp_path / "own").read_text()
    assert "raw mine" not in (tmp_path / "logs/server.log").read_text()


async def test_nothing_is_on_standard_error_beside_a_log_file(tmp_path: Path) -> None:
    handlers = f"import signal, sys\nprint('imported', file=sys.stderr)\n{WITH_LOG}"
    handlers += "signal.raise_signal(signal.SIGTERM)"
    (tmp_path / "logs").mkdir()

    ended = await run_command(tmp_path, config=LOGS, handlers=handlers)

    log = (tmp_path / "logs/server.log").read_text()
    assert (ended.status, ended.lines, ended.output) == (0, [], "")
    assert log.startswith("imported\n")
    assert "stopped status=0" in log


@pytest.mark.parametrize("options", [(), ("--check",)], ids=["start", "check"])
@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("none/server.log", "the log file 'none/server.log'"),
        ("folder", "the log file 'folder'"),
        ("fifo", "the log file 'fifo'"),
        ("/dev/null", "the log file '/dev/null' is no regular file"),
    ],
)
async def test_log_file_that_cannot_be_opened_ends_the_start(
    tmp_path: Path, file: str, complaint: str, options: tuple[str, ...]
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")

    ended = await run_command(tmp_path, *options, config=f'[logging]\nfile = "{file}"')

    assert ended.status == 2
    [line] = ended.lines
    assert line.startswith("trio-jobs: logging.file: ")
    assert complaint in line


async def test_check_opens_the_log_file_and_creates_none(tmp_path: Path) -> None:
    config = '[logging]\nfile = "server.log"\n[handlers]\nquick = "work:quick"'

    first = await run_command(tmp_path, "--check", config=config)
    assert not (tmp_path / "server.log").exists()
    (tmp_path / "server.log").write_text("a line\n")
    second = await run_command(tmp_path, "--check", config=config)

    assert (first.status, second.status) == (0, 0)
    assert (tmp_path / "server.log").read_text() == "a line\n"


@pytest.mark.parametrize(
    ("more", "status", "complaint"),
    [
        ('[handlers]\nquick = "work:none"', 2, "work:none"),
        ('[http]\nbind = "127.0.0.1:{port}"\n[handlers]\nquick = "work:quick"', 1, "in use"),
    ],
    ids=["handler", "address"],
)
async def test_start_that_fails_says_so_on_standard_error(
    tmp_path: Path, more: str, status: int, complaint: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        more = more.replace("{port}", str(taken.getsockname()[1]))
        config = f'[logging]\nfile = "server.log"\n{more}'
        ended = await run_command(tmp_path, config=config, environment={})

    assert ended.status == status
    [line] = ended.lines
    assert complaint in line
