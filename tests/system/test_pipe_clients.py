"""Foreign HTTP clients and the pipe: the programs of the page, and curl.

Each client is a program that reads lines and writes the server's answers. It is run twice: line by
line, where a line is sent when the last one's answer was read, and with 20 MB in each direction.
"""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.command import PATIENCE, Command, Gate, configuration, ledger, running_command
from tests.docs.blocks import DOCS, blocks_of
from tests.docs.machine import need
from tests.server.serving import get
from tests.server.test_tls import CERTIFICATE, KEY
from trio_jobs.server import client_probe

PAGE = DOCS / "how-to/pipe-clients.md"
ON_PAGE = {block.name: block.text for block in blocks_of(PAGE) if block.name}
# Where the page's programs send their lines.
TOLD = "localhost:8080/jobs/pipe?type=double"

# Programs that the page leaves out: another HTTP client of the same kind.
OTHERS = {
    "request.mjs": f"""
import http from "node:http";
const url = "http://{TOLD}";
const request = http.request(url, {{ method: "POST" }}, (answer) => answer.pipe(process.stdout));
process.stdin.pipe(request);
""",
    "slices_requests.py": f"""
import sys
from itertools import islice
import requests
with requests.Session() as session:
    while piece := b"".join(islice(sys.stdin.buffer, 200)):
        with session.post("http://{TOLD}", data=piece, stream=True) as answer:
            answer.raise_for_status()
            for part in answer.iter_content(None):
                sys.stdout.buffer.write(part)
                sys.stdout.flush()
""",
    "slices_async.py": f"""
import sys
from itertools import islice
import anyio, httpx
async def main():
    async with httpx.AsyncClient(timeout=None) as client:
        while piece := b"".join(islice(sys.stdin.buffer, 200)):
            async with client.stream("POST", "http://{TOLD}", content=piece) as answer:
                answer.raise_for_status()
                async for part in answer.aiter_bytes():
                    sys.stdout.buffer.write(part)
                    sys.stdout.flush()
anyio.run(main, backend=sys.argv[1])
""",
    # Sends its whole body before it reads.
    "half_httpx.py": f"""
import sys
import httpx
httpx.post("http://{TOLD}", content=sys.stdin.buffer, timeout=None)
""",
    "half_requests.py": f"""
import sys
import requests
requests.post("http://{TOLD}", data=iter(sys.stdin.buffer))
""",
}

CONFIG = """
[handlers]
echo = "work:echo"
"""
WITH_TLS = f"""
[http]
certfile = "{CERTIFICATE}"
keyfile = "{KEY}"
"""
HANDLERS = """
async def echo(payload: object) -> object:
    return payload
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A client.

    Attributes:
        command: Its command line; ``{url}`` is the pipe's address.
        file: The program that the command runs, if it is not on the machine's path.
        needs: A program of the machine.
    """

    command: tuple[str, ...]
    file: str | None = None
    needs: str = "sh"


def python(file: str, *arguments: str) -> Program:
    return Program(command=(sys.executable, file, *arguments), file=file)


CURL = ("curl", "-N", "-X", "POST", "{url}", "-T")
DUPLEX = {
    "curl -T .": Program(command=(*CURL, "."), needs="curl"),
    "http.client": python("pipe.py"),
    "aiohttp": python("pipe_aiohttp.py"),
    "node fetch": Program(command=("node", "pipe.mjs"), file="pipe.mjs", needs="node"),
    "node http": Program(command=("node", "request.mjs"), file="request.mjs", needs="node"),
    "go": Program(command=("go", "run", "pipe.go"), file="pipe.go", needs="go"),
}
SLICES = {
    "httpx": python("slices.py"),
    "requests": python("slices_requests.py"),
    "httpx on trio": python("slices_async.py", "trio"),
    "httpx on asyncio": python("slices_async.py", "asyncio"),
}
# Sends one line late: it waits for its standard input.
LATE = {"curl -T -": Program(command=(*CURL, "-"), needs="curl")}
TLS = {"curl by TLS": Program(command=(*CURL, ".", "--cacert", CERTIFICATE), needs="curl")}


@asynccontextmanager
async def running_echo(folder: Path, config: str = "") -> AsyncIterator[Command]:
    async with running_command(folder, config=CONFIG + config, handlers=HANDLERS) as server:
        yield server


@asynccontextmanager
async def running_program(
    command: list[str],
    **options: Any,  # noqa: ANN401 - handed on
) -> AsyncIterator[trio.Process]:
    """A client's process; it is killed on exit."""
    process = await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


def set_up(program: Program, server: Command, folder: Path, *, slice_size: int = 200) -> list[str]:
    """Write the program; its command line."""
    need(program.needs)
    url = f"{server.url}/jobs/pipe?type=echo"
    if program.file is not None:
        text = {**ON_PAGE, **OTHERS}[program.file]
        assert TOLD in text or 'HTTPConnection("localhost:8080")' in text
        text = text.replace("localhost:8080", server.url.removeprefix("http://"))
        text = text.replace("type=double", "type=echo")
        text = text.replace(
            "islice(sys.stdin.buffer, 200)", f"islice(sys.stdin.buffer, {slice_size})"
        )
        (folder / program.file).write_text(text)
    return [argument.format(url=url) for argument in program.command]


async def read_answer(stream: trio.abc.ReceiveStream, ahead: bytearray) -> dict[str, Any]:
    """The next line that is not blank."""
    text = b""
    while not text:
        while b"\n" not in ahead:
            data = await stream.receive_some()
            assert data, bytes(ahead)
            ahead += data
        text, _, rest = bytes(ahead).partition(b"\n")
        ahead[:] = rest
    answer: dict[str, Any] = json.loads(text)
    return answer


def answers_of(output: bytes) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The answers to lines, and the last lines of all pipes."""
    lines = [json.loads(text) for text in output.splitlines() if text]
    assert "end" in lines[-1]
    ends = [line for line in lines if "end" in line]
    return [line for line in lines if "end" not in line], ends


@pytest.mark.parametrize("name", [*DUPLEX, *SLICES, *TLS])
async def test_client_gets_each_answer_before_it_sends_the_next_line(
    name: str, tmp_path: Path
) -> None:
    program = {**DUPLEX, **SLICES, **TLS}[name]
    config = WITH_TLS if name in TLS else ""
    async with running_echo(tmp_path / "server", config) as server:
        command = set_up(program, server, tmp_path, slice_size=1)
        ahead = bytearray()
        with trio.fail_after(2 * PATIENCE):  # Go compiles its program
            async with running_program(
                command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                for number in range(5):
                    await process.stdin.send_all(b'{"payload":%d}\n' % number)
                    answer = await read_answer(process.stdout, ahead)
                    if name in SLICES and number:
                        assert answer == {"end": "input", "lines": 1, "succeeded": 1}
                        answer = await read_answer(process.stdout, ahead)
                    assert (answer["outcome"], answer["result"]) == ("succeeded", number)
                await process.stdin.aclose()
                end = await read_answer(process.stdout, ahead)
                assert await process.wait() == 0

    lines = 1 if name in SLICES else 5
    assert end == {"end": "input", "lines": lines, "succeeded": lines}


COUNT, PADDING = 1_000, "x" * 20_000
SLICE = 50  # a megabyte


@pytest.mark.parametrize("name", [*DUPLEX, *SLICES, *LATE, *TLS])
async def test_client_sends_and_gets_20_megabytes(name: str, tmp_path: Path) -> None:
    """More than everything between the two holds."""
    program = {**DUPLEX, **SLICES, **LATE, **TLS}[name]
    config = WITH_TLS if name in TLS else ""
    records = tmp_path / "records.jsonl"
    lines = [json.dumps({"payload": [number, PADDING]}) + "\n" for number in range(COUNT)]
    records.write_text("".join(lines))
    async with running_echo(tmp_path / "server", config) as server:
        command = set_up(program, server, tmp_path, slice_size=SLICE)
        with trio.fail_after(2 * PATIENCE), records.open("rb") as file:
            finished = await trio.run_process(
                command, cwd=tmp_path, stdin=file, capture_stdout=True
            )

    answers, ends = answers_of(finished.stdout)
    assert all(answer["outcome"] == "succeeded" for answer in answers)
    assert sorted(answer["result"][0] for answer in answers) == [*range(COUNT)]
    assert {answer["result"][1] for answer in answers} == {PADDING}
    assert {end["end"] for end in ends} == {"input"}
    assert len(ends) == (COUNT / SLICE if name in SLICES else 1)


@pytest.mark.parametrize("file", ["half_httpx.py", "half_requests.py"])
async def test_client_that_reads_nothing_until_it_has_sent_all_is_disconnected(
    file: str, tmp_path: Path
) -> None:
    """The log says why; what has run is what has run."""
    records = tmp_path / "records.jsonl"
    records.write_text((json.dumps({"payload": PADDING}) + "\n") * 2_000)
    async with running_echo(tmp_path / "server", "[http]\nsend_timeout = 0.3") as server:
        command = set_up(python(file), server, tmp_path)
        with trio.fail_after(PATIENCE), records.open("rb") as stdin:
            finished = await trio.run_process(
                command, cwd=tmp_path, stdin=stdin, capture_stderr=True, check=False
            )
        assert finished.returncode == 1, finished.stderr.decode()
        line = await server.wait_for_line("client_too_slow")

    assert line.endswith('reason="reads nothing while sending: use slices"')


GO_STREAM = """
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	request, _ := http.NewRequest("POST", os.Args[1], strings.NewReader("{}"))
	request.Header.Set("Expect", "100-continue")
	transport := http.Transport{ExpectContinueTimeout: time.Hour}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.StatusCode)
}
"""


async def test_go_takes_as_many_interim_answers_as_the_server_sends(tmp_path: Path) -> None:
    """One more would be too many for its older versions."""
    need("go")
    (tmp_path / "stream.go").write_text(GO_STREAM)
    interim = 1 + len(client_probe._GAPS)

    async def answer(stream: trio.SocketStream) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await stream.receive_some()
        assert b"Expect: 100-continue" in head
        await stream.send_all(interim * b"HTTP/1.1 100 \r\n\r\n")
        await stream.send_all(b"HTTP/1.1 201 \r\nContent-Length: 0\r\n\r\n")

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
        with trio.fail_after(2 * PATIENCE):
            finished = await trio.run_process(
                ["go", "run", "stream.go", url],
                cwd=tmp_path,
                capture_stdout=True,
            )
        nursery.cancel_scope.cancel()

    assert finished.stdout == b"201\n"


WINDOW = 20


@pytest.mark.parametrize("argument", [".", "-"])
async def test_few_jobs_begin_after_curl_is_killed_in_the_middle_of_its_input(
    argument: str, tmp_path: Path
) -> None:
    """Megabytes of its lines are on the way; they wait for the gate while it is killed."""
    need("curl")
    records = tmp_path / "records.jsonl"
    records.write_text('{"payload":1}\n' * 1_000_000)
    folder = tmp_path / "server"
    config = configuration("at_the_gate", workers=WINDOW)
    config = config.replace("[http]", "[http]\naccess_log = true")
    with Gate(folder) as gate:
        async with running_command(folder, config=config) as server:
            url = f"{server.url}/jobs/pipe?type=at_the_gate&window={WINDOW}"
            with records.open("rb") as stdin, trio.fail_after(PATIENCE):
                command = ["curl", "-N", "-X", "POST", "-T", argument, url]
                async with running_program(command, stdin=stdin, stdout=subprocess.DEVNULL):
                    await server.wait_for_lines(WINDOW, " at_the_gate ")
            gate.open()
            await server.wait_for_line("request", "path=/jobs/pipe")
            # All that was submitted before has ended when this has.
            await server.run("at_the_gate", 2)

            assert len(ledger(folder)) <= 3 * WINDOW + 1


PIPES, RESULT = 10, 100_000


@pytest.mark.parametrize("query", ["type=large", "type=large&window=1000"])
async def test_pipes_that_nobody_reads_hold_up_nobody_and_take_bounded_memory(
    query: str, tmp_path: Path
) -> None:
    """Each sends for ever, and each result has 100 kB."""
    config = """
[pool]
workers = 10
[http]
send_timeout = 600
[store]
keep_completed = 100
[handlers]
large = "work:large"
small = "work:small"
"""
    handlers = f"""
async def large(payload: object) -> str:
    return {RESULT} * "x"
async def small(payload: object) -> object:
    return payload
"""
    piece = b'{"payload":1}\n' * 1000
    chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
    head = get(f"/jobs/pipe?{query}", "Transfer-Encoding: chunked", method="POST")
    async with running_command(tmp_path, config=config, handlers=handlers) as server:

        async def send_for_ever() -> None:
            host, _, port = server.url.removeprefix("http://").partition(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                await stream.send_all(head)
                while True:
                    await stream.send_all(chunk)

        async with trio.open_nursery() as nursery:
            for _ in range(PIPES):
                nursery.start_soon(send_for_ever)
            ran = 0
            for _ in range(200):
                assert (await server.run("small", 1))["outcome"] == "succeeded"
                assert (await server.client.get("/health")).status_code == 200
                totals = (await server.client.get("/pool")).json()["types"]["large"]
                before, ran = ran, totals["outcomes"].get("succeeded", 0)
                if ran == before and not totals["processing"] and ran > PIPES:
                    break
            else:
                raise AssertionError(f"{ran} jobs have run, and there is no end")
            memory = peak_memory(server.process.pid)
            nursery.cancel_scope.cancel()

    # Of each: 1 MiB of answers and what the workers add to it, as much in the socket's piece, and
    # what was read ahead. Beside: Python with the server, and what is kept of the last jobs.
    of_each = 2 * (1_048_576 + 20 * RESULT) + 4 * 65_536
    assert memory < 80_000_000 + PIPES * of_each + 100 * RESULT


def peak_memory(pid: int) -> int:
    """The most bytes that the process has held."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("needs /proc")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found[1]) * 1024
