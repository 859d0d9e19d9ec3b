"""The HTTP server's settings, through the real command."""

import signal
import ssl
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx
import pytest
import trio

from tests.command import (
    MODULE,
    PATIENCE,
    Command,
    run_command,
    running_command,
)

SERVER_TESTS = Path(__file__).parents[1] / "server"
CERTIFICATE = SERVER_TESTS / "localhost.crt"
KEY = SERVER_TESTS / "localhost.key"

TOKEN = "a-long-random-text"  # noqa: S105  (nobody's)


async def connect(server: Command) -> trio.SocketStream:
    """A connection, in bytes."""
    url = httpx.URL(server.url)
    return await trio.open_tcp_stream(url.host, url.port or 0)


async def ask(stream: trio.abc.Stream, request: bytes) -> bytes:
    """Send a request, and read what comes first."""
    with trio.fail_after(PATIENCE):
        await stream.send_all(request)
        return bytes(await stream.receive_some(65_536))


FEW = ("sh", "-c", 'ulimit -n 64; exec "$0" "$@"', *MODULE)  # descriptors


@pytest.mark.parametrize("source", ["environment", "file"])
async def test_a_token_is_asked_for_and_never_shown(tmp_path: Path, source: str) -> None:
    environment = {"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}
    if source == "environment":
        environment["TRIO_JOBS_HTTP_TOKEN"] = f" {TOKEN} "
    else:
        environment["TRIO_JOBS_HTTP_TOKEN_FILE"] = "token"  # noqa: S105  (a name)
        (tmp_path / "token").write_text(f"{TOKEN}\n")
    options = ("--log-level=debug",)
    async with running_command(tmp_path, *options, environment=environment) as server:
        without = await server.client.get("/jobs")
        wrong = await server.client.get("/jobs", headers={"Authorization": "Bearer wrong"})
        right = await server.client.get("/jobs", headers={"Authorization": f"Bearer {TOKEN}"})
        health = await server.client.get("/health")
        ready = await server.client.get("/health/ready")
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0
    check = await run_command(tmp_path, "--check", environment=environment)

    assert [without.status_code, wrong.status_code, right.status_code] == [401, 401, 200]
    assert without.headers["www-authenticate"].startswith("Bearer")
    assert [health.status_code, ready.status_code] == [200, 200]
    assert TOKEN not in server.log
    assert check.status == 0
    assert TOKEN not in check.output + "".join(check.lines)


TOKENS = """
# One for the shop, one for the dashboard, one for a person
submit s3cret-1 shop
read   s3cret-2 grafana
control s3cret-3 ann
"""


async def test_each_token_of_the_file_has_its_role_and_name(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKENS)
    config = '[http]\ntoken_file = "tokens"\npayloads = "control"\n'
    job = {"type": "any", "payload": {"seconds": 0}}
    requests = [("POST", "/jobs", job), ("GET", "/jobs", None), ("POST", "/jobs/rerun", {})]
    statuses = []
    async with running_command(tmp_path, config=config) as server:
        for number in (1, 2, 3):
            headers = {"Authorization": f"Bearer s3cret-{number}"}
            for method, path, body in requests:
                answer = await server.client.request(method, path, json=body, headers=headers)
                statuses.append(answer.status_code)
        listed = (await server.client.get("/jobs", headers=headers)).json()
        place = f"/jobs/{listed[0]['id']}"
        reader = {"Authorization": "Bearer s3cret-2"}
        withheld = (await server.client.get(place, headers=reader)).json()
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0
        [done] = server.lines_with("operator_action")

    assert statuses == [201, 403, 403, 403, 200, 403, 201, 200, 201]
    assert [each["submitted_by"] for each in listed] == ["shop", "ann"]
    assert withheld["withheld"] is True
    assert "payload" not in withheld
    assert "action=rerun_jobs by=ann client=127.0.0.1:" in done
    assert "s3cret" not in server.log


@pytest.mark.parametrize("options", [(), ("--check",)], ids=["start", "check"])
async def test_wrong_line_of_the_token_file_is_one_line_and_status_2(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "tokens").write_text("fine\nraed s3cret\n")

    ended = await run_command(tmp_path, *options, config='[http]\ntoken_file = "tokens"')

    assert ended.status == 2
    [line] = ended.lines
    assert (
        "http: the token file 'tokens', line 2: the first of several words must be a role" in line
    )
    assert "s3cret" not in line
    assert "raed" not in line


@pytest.mark.smoke
async def test_access_limits_and_access_log_are_as_configured(tmp_path: Path) -> None:
    config = """
        [http]
        allowed_hosts = ["jobs.internal"]
        access_log = true
        max_body_bytes = 100
        max_header_bytes = 1024
    """
    job = {"type": "any"}
    async with running_command(tmp_path, config=config) as server:
        page = await server.client.post("/jobs", json=job, headers={"Origin": "https://evil.test"})
        rebound = await server.client.get("/jobs", headers={"Host": "evil.test"})
        allowed = await server.client.get("/jobs", headers={"Host": "jobs.internal:8080"})
        body = await server.client.post("/jobs", content=b"x" * 101)
        header = await server.client.get("/jobs", headers={"X": "x" * 2000})
        line = await server.wait_for_line("trio_jobs.access", "GET", "/jobs", "200")

    assert [page.status_code, rebound.status_code, allowed.status_code] == [403, 403, 200]
    assert page.headers["content-type"] == "application/problem+json"
    assert [body.status_code, header.status_code] == [413, 431]
    assert "duration=" in line


async def test_https(tmp_path: Path) -> None:
    config = f'[http]\ncertfile = "{CERTIFICATE}"\nkeyfile = "{KEY}"'
    async with running_command(tmp_path, config=config) as server:
        trusted = ssl.create_default_context(cafile=str(CERTIFICATE))
        url = server.url.replace("127.0.0.1", "localhost")
        async with httpx.AsyncClient(base_url=url, verify=trusted, timeout=PATIENCE) as client:
            answer = await client.post("/jobs", json={"type": "any"})

    assert server.url.startswith("https://")
    assert answer.status_code == 201


QUICK = '[handlers]\nquick = "work:quick"'


async def test_soft_limit_on_descriptors_is_raised_before_handlers_are_imported(
    tmp_path: Path,
) -> None:
    handlers = """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
with open("limits", "w") as file: file.write(f"{soft}")
async def quick(payload): pass
"""
    few = ("sh", "-c", 'ulimit -Sn 64; exec "$0" "$@"', *MODULE)
    config = f"[http]\nmax_connections = 100\n{QUICK}"
    async with running_command(tmp_path, config=config, handlers=handlers, command=few):
        soft = int((tmp_path / "limits").read_text())

    assert soft > 100


async def test_idle_clients_leave_descriptors_for_the_processes_of_jobs(tmp_path: Path) -> None:
    config = """
        [pool]
        processes = 3
        [http]
        keep_alive_timeout = 100
        [handlers.nap]
        call = "work:nap"
        run = "process"
    """
    handlers = "import time\ndef nap(seconds): time.sleep(seconds)"
    async with (
        running_command(tmp_path, config=config, handlers=handlers, command=FEW) as server,
        AsyncExitStack() as clients,
    ):
        await server.client.get("/health")
        for _ in range(100):
            await clients.enter_async_context(await connect(server))
        await server.wait_for_line("connection_limit_reached")

        ids = [await server.submit("nap", 0.2) for _ in range(8)]
        jobs = [
            await server.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=20"})
            for job_id in ids
        ]

    assert [job.json().get("outcome") for job in jobs] == ["succeeded"] * 8, server.log


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ('certfile = "a.pem"', "http.certfile and http.keyfile must be set together"),
        ('certfile = "a.pem"\nkeyfile = "b.pem"', "cannot use certfile 'a.pem': No such file"),
        ('token = "tök"', "http: the token must be ASCII, without white space"),
        ('token = "a b"', "http: the token must be ASCII, without white space"),
        ('token_file = "none"', "cannot read the token file 'none'"),
        ('token_file = "none"\ntoken = "t"', "http.token and http.token_file must not be set"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--check",)], ids=["start", "check"])
async def test_mistake_is_one_line_and_status_2(
    tmp_path: Path, settings: str, complaint: str, options: tuple[str, ...]
) -> None:
    ended = await run_command(tmp_path, *options, config=f"[http]\n{settings}")

    assert ended.status == 2
    [line] = ended.lines
    assert complaint in line


BIG = 30_000_000
BIG_WORK = """
async def big(count):
    return "x" * count
"""


def big_config(*, grace_period: float, graceful_timeout: float, tls: bool) -> str:
    """A server for a long answer."""
    more = f'certfile = "{CERTIFICATE}"\nkeyfile = "{KEY}"' if tls else ""
    return f"""
[pool]
grace_period = {grace_period}
[http]
bind = "127.0.0.1:0"
graceful_timeout = {graceful_timeout}
{more}
[store]
max_result_bytes = 80_000_000
[handlers]
big = "work:big"
"""


async def ask_for_big(server: Command, *, tls: bool) -> trio.abc.Stream:
    """A client that has the first bytes of a long answer."""
    stream: trio.abc.Stream = await connect(server)
    if tls:
        context = ssl.create_default_context(cafile=CERTIFICATE)
        stream = trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)
    body = b'{"type": "big", "payload": %d}' % BIG
    head = (
        b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=20\r\nContent-Length: %d\r\n\r\n"
    )
    assert (await ask(stream, head % len(body) + body)).startswith(b"HTTP/1.1 20")
    return stream


async def read_on(stream: trio.abc.Stream, *, pause: float) -> int:
    """Read like one with a slow line; how much came."""
    received = 0
    with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
        while data := await stream.receive_some(65_536):
            received += len(data)
            await trio.sleep(pause)
    return received


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_client_that_reads_during_the_stop_gets_all_of_its_answer(
    tmp_path: Path, *, tls: bool
) -> None:
    # A busy machine may keep the client from reading for a while: less than that.
    config = big_config(grace_period=600, graceful_timeout=5, tls=tls)
    async with running_command(tmp_path, config=config, handlers=BIG_WORK) as server:
        async with await ask_for_big(server, tls=tls) as stream:
            server.send(signal.SIGTERM)
            assert await read_on(stream, pause=0.02 if not tls else 0.005) > BIG - 70_000

        assert await server.wait_exit() == 0
        assert not server.lines_with("connections_cut")


@pytest.mark.parametrize("how", ["second signal", "hard limit near"])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_client_that_reads_is_cut_by_force_and_not_by_the_hard_limit(
    tmp_path: Path, how: str, *, tls: bool
) -> None:
    grace_period = 60 if how == "second signal" else 0.3
    config = big_config(grace_period=grace_period, graceful_timeout=0.3, tls=tls)
    async with running_command(tmp_path, config=config, handlers=BIG_WORK) as server:
        async with await ask_for_big(server, tls=tls) as stream, trio.open_nursery() as nursery:
            received = 0

            @nursery.start_soon
            async def read() -> None:
                nonlocal received
                received = await read_on(stream, pause=0.02)

            server.send(signal.SIGTERM)
            await server.wait_for_line("draining")
            if how == "second signal":
                await trio.sleep(0.6)  # more than graceful_timeout, and not taken for a repetition
                server.send(signal.SIGTERM)
            await server.wait_for_line("connections_cut")

        assert received < BIG - 70_000
        assert await server.wait_exit() == 0
        assert not server.lines_with("hard limit")
