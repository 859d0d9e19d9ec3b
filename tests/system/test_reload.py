"""SIGHUP through the real command: it reloads, and never ends the server."""

import os
import shutil
import signal
import ssl
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import PATIENCE, Command, Gate, configuration, ledger, running_command
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
        async with httpx.AsyncClient(base_url=url, verify=trusted) as kept:
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
