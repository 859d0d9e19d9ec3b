"""The page about nginx, with nginx: its own blocks, one in front of the other."""

import json
import re
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import PATIENCE, Command, Gate, running_command, started_command
from tests.docs.blocks import DOCS, ROOT, blocks_of
from tests.docs.machine import need

PAGE = DOCS / "how-to/nginx.md"
[BLOCK] = [block.text for block in blocks_of(PAGE) if block.kind == "nginx"]
[CONFIG] = [block.text for block in blocks_of(PAGE) if block.name == "config.toml"]

# What the page leaves to nginx is so short here that a wait in these tests outlasts it: the page
# has to name what it relies on.
AROUND = """
daemon off;
master_process off;  # so that nginx, when root starts it, can go into the folders of the tests
pid nginx.pid;
error_log stderr info;
events {}
http {
    access_log off;
    client_body_temp_path collected;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    uwsgi_temp_path temporary;
    scgi_temp_path temporary;
    client_body_timeout 1s;
    proxy_read_timeout 1s;
    proxy_send_timeout 1s;
    include jobs.conf;
}
"""

# One worker and few places, so that a stream soon waits for room.
MORE_CONFIG = """
access_log = true
{more}

[pool]
workers = 1
buffer_size = 2

[handlers]
quick = "work:quick"
echo = "work:echo"
at_the_gate = "work:at_the_gate"

[logging]
level = "debug"
"""

HANDLERS = (
    (ROOT / "tests/work.py").read_text()
    + """

async def echo(payload: object) -> object:
    return payload
"""
)


@pytest.fixture(autouse=True)
def nginx_is_there() -> None:
    need("nginx", "openssl")


def set_up(folder: Path, upstream: str, block: str) -> ssl.SSLContext:
    """Write what nginx needs, and make what its clients trust."""
    folder.mkdir()
    for written, instead in {
        "server 127.0.0.1:8080;": upstream,
        "listen 443": f"listen unix:{folder}/https",  # a port could be somebody else's
        "/etc/ssl/certs/": "",
        "/etc/ssl/private/": "",
    }.items():
        assert written in block
        block = block.replace(written, instead)
    (folder / "jobs.conf").write_text(block)
    (folder / "nginx.conf").write_text(AROUND)
    name = "jobs.example.com"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", f"/CN={name}"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", f"subjectAltName=DNS:{name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return ssl.create_default_context(cafile=folder / f"{name}.pem")


@asynccontextmanager
async def running_nginx(
    folder: Path, upstream: str, block: str = BLOCK
) -> AsyncIterator[httpx.AsyncClient]:
    """Start nginx in front of these servers; a client of jobs.example.com."""
    context = set_up(folder, upstream, block)
    transport = httpx.AsyncHTTPTransport(uds=f"{folder}/https", verify=context)
    async with (
        started_command(
            folder, "-e", "stderr", "-p", ".", "-c", "nginx.conf", command=["nginx"]
        ) as nginx,
        httpx.AsyncClient(
            base_url="https://jobs.example.com", transport=transport, timeout=PATIENCE
        ) as client,
    ):
        await nginx.wait_for_line("event method")  # it listens by then
        yield client


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxied:
    """The server behind nginx.

    Attributes:
        server: trio-jobs, with the configuration of the page.
        client: Of nginx.
        folder: Where both have theirs.
    """

    server: Command
    client: httpx.AsyncClient
    folder: Path


@asynccontextmanager
async def running_both(
    folder: Path, block: str = BLOCK, *, more: str = ""
) -> AsyncIterator[Proxied]:
    """Start trio-jobs, with ``more`` settings of HTTP, and nginx in front of it."""
    config = CONFIG + MORE_CONFIG.format(more=more)
    async with running_command(folder / "jobs", config=config, handlers=HANDLERS) as server:
        upstream = f"server {server.url.removeprefix('http://')};"
        async with running_nginx(folder / "nginx", upstream, block) as client:
            yield Proxied(server=server, client=client, folder=folder)


@pytest.fixture
async def proxied(tmp_path: Path) -> AsyncIterator[Proxied]:
    """The server behind nginx."""
    async with running_both(tmp_path) as proxied:
        yield proxied


def line(job_type: str, payload: object) -> bytes:
    return json.dumps({"type": job_type, "payload": payload}).encode() + b"\n"


async def test_answer_is_waited_for_as_long_as_the_server_holds_it(proxied: Proxied) -> None:
    with Gate(proxied.folder / "jobs"):
        answer = await proxied.client.post(
            "/jobs", json={"type": "at_the_gate"}, headers={"Prefer": "wait=2"}
        )

        assert answer.status_code == 201
        assert answer.json()["status"] == "processing"


async def test_requests_share_a_connection_to_the_server(proxied: Proxied) -> None:
    for _ in range(2):
        answer = await proxied.client.get("/health")
        assert answer.status_code == 200
        assert answer.headers["server"].startswith("nginx")
        stream = await proxied.client.post("/jobs/stream", content=line("quick", 1))
        assert stream.json() == {"accepted": 1}

    requests = await proxied.server.wait_for_lines(4, "trio_jobs.access request")
    assert len({text.partition("client=")[2].split()[0] for text in requests}) == 1


async def test_other_names_are_refused(proxied: Proxied) -> None:
    answer = await proxied.client.get("/health", headers={"Host": "other.example.com"})

    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"  # so it is not nginx's


# What browsers send with a write: new ones say where a page is from, to servers that have TLS.
OWN_PAGES = [
    {"Origin": "https://jobs.example.com{port}"},
    {"Origin": "https://jobs.example.com{port}", "Sec-Fetch-Site": "same-origin"},
]
OTHER_PAGES = [
    {"Origin": "https://jobs.example.com:9443"},
    {"Origin": "https://other.example.com{port}"},
    {"Origin": "https://other.example.com{port}", "Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("port", ["", ":8443"])
async def test_pages_of_the_proxys_own_origin_may_write_on_any_port(
    proxied: Proxied, port: str
) -> None:
    proxied.client.base_url = httpx.URL(f"https://jobs.example.com{port}")

    for headers, status in [(each, 201) for each in OWN_PAGES] + [
        (each, 403) for each in OTHER_PAGES
    ]:
        sent = {name: text.format(port=port) for name, text in headers.items()}
        answer = await proxied.client.post("/jobs", json={"type": "quick"}, headers=sent)
        assert answer.status_code == status, sent
        assert str(answer.request.url).startswith(f"https://jobs.example.com{port}/")


async def test_stream_is_passed_on_as_it_comes(proxied: Proxied) -> None:
    async def lines() -> AsyncIterator[bytes]:
        for n in range(1, 4):
            yield line("quick", n)
            await proxied.server.wait_for_lines(n, "job_admitted")  # then comes the next one

    answer = await proxied.client.post("/jobs/stream", content=lines())

    assert (answer.status_code, answer.json()) == (201, {"accepted": 3})


async def test_events_are_passed_on_as_they_come(proxied: Proxied) -> None:
    jobs = trio.Semaphore(0)

    async def submit() -> None:
        while True:  # each job when the one before it was seen to end
            await jobs.acquire()
            await proxied.client.post("/jobs", json={"type": "quick"})

    ended = 0
    events: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(submit)
        async with proxied.client.stream("GET", "/events") as answer:
            assert "x-accel-buffering" not in answer.headers  # nginx has taken it
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    events.append(line.removeprefix("event: "))
                if events == ["state"] and line.startswith("data: "):
                    jobs.release()
                if events[-1:] == ["ended"] and line.startswith("data: "):
                    ended += 1
                    if ended < 3:
                        jobs.release()
                    else:
                        proxied.server.send(signal.SIGTERM)
        nursery.cancel_scope.cancel()

    assert ended == 3
    assert events[-1] == "bye"


@asynccontextmanager
async def gate_opened_late(proxied: Proxied) -> AsyncIterator[trio.Event]:
    """Open the gate, and set the event, when the limits that nginx has by itself are over."""
    opened = trio.Event()
    with Gate(proxied.folder / "jobs") as gate:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def open_late() -> None:
                await proxied.server.wait_for_line("job_started")
                [job] = (await proxied.client.get("/jobs?status=processing")).json()
                await proxied.client.get(f"/jobs/{job['id']}", headers={"Prefer": "wait=2"})
                opened.set()
                gate.open()

            yield opened


async def test_stream_is_slowed_down_while_the_buffer_is_full(proxied: Proxied) -> None:
    (proxied.folder / "nginx/collected").rmdir()  # nowhere to put it meanwhile

    async with gate_opened_late(proxied) as opened:

        async def lines() -> AsyncIterator[bytes]:
            for _ in range(64):  # megabytes, more than sockets hold
                yield line("at_the_gate", "x" * 1_000_000)
            assert opened.is_set()

        answer = await proxied.client.post("/jobs/stream", content=lines())

    assert (answer.status_code, answer.json()) == (201, {"accepted": 64})


async def test_path_of_its_own_is_removed(tmp_path: Path) -> None:
    text, block = PAGE.read_text(), BLOCK
    for written, instead in [
        ("location /", "location /queue/"),
        ("proxy_pass http://trio_jobs;", "proxy_pass http://trio_jobs/;"),
        ("location = /jobs/stream", "location = /queue/jobs/stream"),
        ("proxy_pass http://trio_jobs;", "proxy_pass http://trio_jobs/jobs/stream;"),
    ]:
        assert f"`{instead}`" in text
        assert f"{written} " in block or written.endswith(";")
        block = block.replace(written, instead, 1)

    async with running_both(tmp_path, block) as proxied:
        answer = await proxied.client.post("/queue/jobs", json={"type": "quick"})
        job = answer.json()["id"]

        assert answer.headers["location"] == f"/jobs/{job}"
        assert (await proxied.client.get(f"/queue/jobs/{job}")).status_code == 200
        assert (await proxied.client.get(f"/jobs/{job}")).status_code == 404
        stream = await proxied.client.post("/queue/jobs/stream", content=line("quick", 1))
        assert stream.json() == {"accepted": 1}


async def test_only_requests_that_change_nothing_are_repeated(tmp_path: Path) -> None:
    methods: list[str] = []

    async def hang_up(stream: trio.SocketStream) -> None:
        async with stream:
            methods.append((await stream.receive_some()).decode().partition(" ")[0])

    async with trio.open_nursery() as nursery:
        listeners = [
            listener
            for _ in range(2)
            for listener in await trio.open_tcp_listeners(0, host="127.0.0.1")
        ]
        upstream = "".join(
            f"server 127.0.0.1:{listener.socket.getsockname()[1]} max_fails=0;"
            for listener in listeners
        )
        nursery.start_soon(trio.serve_listeners, hang_up, listeners)
        async with running_nginx(tmp_path / "nginx", upstream) as client:
            for send in (client.get, client.post):
                assert (await send("/jobs")).status_code == 502
        nursery.cancel_scope.cancel()

    assert methods == ["GET", "GET", "POST"]


# Nothing but what every server behind nginx needs; HTTP/1.0, for example, is nginx's own choice.
DEFAULTS = re.sub(r".*(proxy_http_version|Connection|proxy_read_timeout 75s).*\n", "", BLOCK)
PADDING = "x" * 5_000


@pytest.mark.parametrize("block", [BLOCK, DEFAULTS], ids=["page", "defaults"])
async def test_slices_of_20_megabytes_pass(block: str, tmp_path: Path) -> None:
    assert "proxy_http_version" in BLOCK
    results: list[int] = []

    async with running_both(tmp_path, block) as proxied:

        async def send(first: int) -> None:
            for start in range(first, 4_000, 400):
                body = b"".join(line("echo", [n, PADDING]) for n in range(start, start + 100))
                answer = await proxied.client.post("/jobs/pipe", content=body)
                *lines, end = map(json.loads, filter(None, answer.text.splitlines()))
                assert end == {"end": "input", "lines": 100, "succeeded": 100}
                results.extend(each["result"][0] for each in lines)

        async with trio.open_nursery() as nursery:
            for first in range(0, 400, 100):
                nursery.start_soon(send, first)

    assert sorted(results) == [*range(4_000)]


async def test_answers_of_a_slice_pass_as_they_come(proxied: Proxied) -> None:
    slice_ = line("echo", 1) + line("at_the_gate", 2)
    answers: list[dict[str, object]] = []
    with Gate(proxied.folder / "jobs") as gate:
        async with proxied.client.stream("POST", "/jobs/pipe", content=slice_) as answer:
            async for text in answer.aiter_lines():
                if text:
                    answers.append(json.loads(text))
                    gate.open()  # only the first answer has come

    assert [each.get("line") for each in answers] == [1, 2, None]


async def pour(folder: Path) -> bytes:
    """Send lines by a pipe until they are not taken any more; all that was answered."""
    context = ssl.create_default_context(cafile=folder / "nginx/jobs.example.com.pem")
    stream = trio.SSLStream(
        await trio.open_unix_socket(folder / "nginx/https"),
        context,
        server_hostname="jobs.example.com",
        https_compatible=True,
    )
    head = (
        "POST /jobs/pipe HTTP/1.1\r\nHost: jobs.example.com\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    lines = b"".join(line("echo", [n, PADDING]) for n in range(100))
    answered = b""
    async with stream, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            await stream.send_all(head.encode())
            with suppress(trio.BrokenResourceError):
                for _ in range(40):
                    await stream.send_all(b"%x\r\n%b\r\n" % (len(lines), lines))
                await stream.send_all(b"0\r\n\r\n")

        with suppress(trio.BrokenResourceError):
            while data := await stream.receive_some():
                answered += data
        nursery.cancel_scope.cancel()
    return answered


async def test_pipe_that_nginx_collects_is_refused_by_its_length(proxied: Proxied) -> None:
    assert b" 413 Request Entity Too Large" in await pour(proxied.folder)


async def test_pipe_that_nginx_passes_on_stalls_and_ends_in_words(tmp_path: Path) -> None:
    """A location for it like that of the stream does not help."""
    [location] = re.findall(r"    location = /jobs/stream \{.*?\n    \}\n", BLOCK, re.DOTALL)
    block = BLOCK.replace(location, location + location.replace("stream", "pipe"))
    async with running_both(tmp_path, block, more="stream_idle_timeout = 1"):
        answered = await pour(tmp_path)

    *_, end = [text for text in answered.splitlines() if text.startswith(b"{")]
    assert json.loads(end)["end"] == "idle"
