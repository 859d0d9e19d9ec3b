"""The real command in a process of its own: real sockets, signals and pipes, the real clock.

By default the process is a fork of one that has imported the package (`tests.ready_python`).

    async with running_command(tmp_path, config=CONFIG, handlers=HANDLERS) as server:
        job_id = await server.submit("email")
        await server.wait_for_line("job_succeeded", job_id)  # at log level debug
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0

Nothing here polls or sleeps: what a test waits for is a line of the log, an answer, or the exit.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import httpx
import trio

import trio_jobs
from tests.ready_python import ForkedProcess, ReadyPython

MODULE = (sys.executable, "-m", "trio_jobs")
# What installing the package has put beside Python.
SCRIPT = (str(Path(sys.executable).with_name("trio-jobs")),)


def patched(text: str) -> tuple[str, ...]:
    """The command, after this program text, which changes what is imported."""
    run = "from trio_jobs.cli import run\nsys.exit(run())"
    return (sys.executable, "-c", f"import os, sys, trio\n{text}\n{run}")


# Any free port; the log says which.
_ANY_PORT = {"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0"}

# Seconds until a test that waits for something gives up: far more than anything takes, also on a
# busy machine. No test asserts how long anything took by it.
PATIENCE = 180.0


class Command:
    """A started command.

    Attributes:
        process: Its process, the leader of a process group of its own.
        lines: What it has written to standard error so far.
        url: Where it serves, once `wait_running` has returned.
        client: A client with that base URL.
    """

    def __init__(self, process: trio.Process | ForkedProcess) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self.client = httpx.AsyncClient()
        self._more = trio.Event()  # replaced at every change
        self._reading = trio.CancelScope()
        self._ended = False

    async def wait_for_line(self, *parts: str) -> str:
        """The first line with all of these parts, once there is one."""
        return (await self.wait_for_lines(1, *parts))[0]

    async def wait_for_lines(self, count: int, *parts: str) -> list[str]:
        """The first so many lines with all of these parts, once they are there."""
        with trio.move_on_after(PATIENCE):
            while True:
                found = self.lines_with(*parts)
                if len(found) >= count:
                    return found[:count]
                if self._ended:
                    break
                await self._more.wait()
        raise AssertionError(f"fewer than {count} lines with {parts!r} in the log")

    def lines_with(self, *parts: str) -> list[str]:
        """The lines with all of these parts so far."""
        return [line for line in self.lines if all(part in line for part in parts)]

    async def wait_running(self) -> None:
        """Wait until it accepts connections; sets ``url`` and ``client``."""
        line = await self.wait_for_line("Running on http")
        self.url = line.partition("Running on ")[2].split()[0].rstrip('",}')
        self.client = new_client(self.url)

    async def submit(self, job_type: str, payload: object = None) -> str:
        """Submit a job, which must be accepted; its id."""
        answer = await self.client.post("/jobs", json={"type": job_type, "payload": payload})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def run(self, job_type: str, payload: object = None) -> dict[str, Any]:
        """Submit a job, and wait for its end; the job as a client then sees it."""
        job: dict[str, Any] = (
            await self.client.post(
                "/jobs",
                json={"type": job_type, "payload": payload},
                headers={"Prefer": f"wait={PATIENCE:.0f}"},
            )
        ).json()
        assert job["status"] == "completed", job
        return job

    async def job(self, job_id: str) -> dict[str, Any]:
        """The job as a client sees it now."""
        answer = await self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(signum)

    def send_to_group(self, signum: signal.Signals) -> None:
        """Send a signal to its whole process group, as a terminal does at Ctrl-C, if it is left."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signum)

    def stop_reading(self) -> None:
        """Leave the pipe behind standard error open, and unread from now on."""
        self._reading.cancel()

    async def close_log(self) -> None:
        """Close the pipe behind standard error: whoever writes to it from now on gets EPIPE."""
        self._reading.cancel()
        while not self._ended:  # whoever reads at this moment would fail
            await self._more.wait()
        assert self.process.stderr is not None
        await self.process.stderr.aclose()

    async def wait_exit(self, seconds: float = PATIENCE) -> int:
        """Its exit status, once it has ended and its log is read to the end."""
        try:
            with trio.fail_after(seconds):
                status = await self.process.wait()
                while not self._ended:
                    await self._more.wait()
        except trio.TooSlowError:
            raise AssertionError(f"still there after {seconds} s") from None
        return status

    @property
    def log(self) -> str:
        """What it has written to standard error so far."""
        return "\n".join(self.lines)

    async def _read_lines(self) -> None:
        assert self.process.stderr is not None
        rest = b""
        try:
            with self._reading:
                async for chunk in self.process.stderr:
                    *lines, rest = (rest + chunk).split(b"\n")
                    self.lines += (line.decode() for line in lines)
                    self._changed()
        finally:
            if rest:
                self.lines.append(rest.decode())
            self._ended = True
            self._changed()

    def _changed(self) -> None:
        self._more.set()
        self._more = trio.Event()


class Start(TypedDict, total=False):
    """How a command is started.

    Attributes:
        config: The text of ``config.toml`` in its folder; without it there is none.
        handlers: The text of ``work.py`` there, by default that of `tests.work`.
        environment: Variables beyond those of this process. By default TRIO_JOBS_HTTP_BIND has the
            command serve on a free port of 127.0.0.1.
        command: The program and its first arguments, for a test of what happens until the package
            is imported. By default a fork of `ReadyPython` goes on as `MODULE` then does.
        patch: Program text that runs before, and changes a module of the server's.
    """

    config: str | None
    handlers: str | None
    environment: Mapping[str, str] | None
    command: Sequence[str] | None
    patch: str


@asynccontextmanager
async def started_command(
    folder: Path, *arguments: str, **start: Unpack[Start]
) -> AsyncIterator[Command]:
    """A command started in ``folder``, usually ``tmp_path``; it is killed on exit."""
    process = await _open(folder, arguments, start, stdout=subprocess.DEVNULL)
    started = Command(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(started._read_lines)
            try:
                yield started
            except AssertionError as error:
                error.add_note(f"The command's log:\n{started.log}")
                raise
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()  # does nothing once it has ended
            await process.wait()
            assert process.stderr is not None
            await process.stderr.aclose()
            await started.client.aclose()


@asynccontextmanager
async def running_command(
    folder: Path, *arguments: str, **start: Unpack[Start]
) -> AsyncIterator[Command]:
    """The same, once it accepts connections."""
    async with started_command(folder, *arguments, **start) as started:
        await started.wait_running()
        yield started


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A command that has ended by itself."""

    status: int
    output: str
    lines: list[str]


async def run_command(folder: Path, *arguments: str, **start: Unpack[Start]) -> Finished:
    """A command that ends by itself, from beginning to end."""
    texts = ["", ""]

    async def read(which: int, stream: trio.abc.ReceiveStream | None) -> None:
        assert stream is not None
        async with stream:
            texts[which] = b"".join([bytes(piece) async for piece in stream]).decode()

    with trio.fail_after(PATIENCE):
        process = await _open(folder, arguments, start, stdout=subprocess.PIPE)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, 0, process.stdout)
                nursery.start_soon(read, 1, process.stderr)
            status = await process.wait()
        finally:
            process.kill()  # does nothing once it has ended
    return Finished(status=status, output=texts[0], lines=texts[1].splitlines())


async def _open(
    folder: Path, arguments: Sequence[str], start: Start, *, stdout: int
) -> trio.Process | ForkedProcess:
    env = environment(start.get("environment"))
    command, patch = start.get("command"), start.get("patch", "")
    write_files(folder, config=start.get("config"), handlers=start.get("handlers"))
    if command is None and ready_python().can_fork(env):
        return ForkedProcess(
            ready_python().fork(
                arguments, cwd=folder, env=env, stdout=stdout, stderr=subprocess.PIPE, patch=patch
            )
        )
    return await trio.lowlevel.open_process(
        [*(command or (patched(patch) if patch else MODULE)), *arguments],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        process_group=0,  # so a signal to its group does not reach the tests
    )


@cache
def ready_python() -> ReadyPython:
    """What forks the commands of this process's tests."""
    ready = ReadyPython(environment({}))
    atexit.register(ready.close)
    return ready


def write_files(folder: Path, *, config: str | None = None, handlers: str | None = None) -> None:
    """Write ``config.toml``, if given, and ``work.py``, where `tests.work` is the default."""
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.toml").write_text(config)
    if handlers is None:
        handlers = Path(__file__).with_name("work.py").read_text()
    (folder / "work.py").write_text(handlers)


def configuration(*functions: str, graceful_timeout: float = 2.0, **pool: float) -> str:
    """A ``config.toml`` with these functions of `tests.work`, each for the type of its name."""
    return "\n".join(
        [
            "[pool]",
            *(f"{key} = {value}" for key, value in pool.items()),
            f"[http]\ngraceful_timeout = {graceful_timeout}",
            "[handlers]",
            *(f'{function} = "work:{function}"' for function in functions),
        ]
    )


def ledger(folder: Path) -> list[str]:
    """What the handlers have noted, sorted."""
    path = folder / "ledger"
    return sorted(path.read_text().splitlines()) if path.exists() else []


class Gate:
    """What `tests.work.at_the_gate` waits at, in the folder where the command runs."""

    def __init__(self, folder: Path) -> None:
        """A closed one."""
        folder.mkdir(exist_ok=True)
        os.mkfifo(folder / "gate")
        # Both ends, so that what is written stays in it.
        self._fd = os.open(folder / "gate", os.O_RDWR | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def open(self) -> None:
        """Let everybody through, those who come later too."""
        os.write(self._fd, b"open")


async def post_job(url: httpx.URL, job_type: str, payload: object) -> int:
    """Submit over a connection of its own, for load: cheap; the status, or 0 without an answer."""
    # httpx would also warn about what it had not sent when the server closed the connection.
    body = json.dumps({"type": job_type, "payload": payload})
    head = f"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    answer = b""
    with suppress(OSError, trio.BrokenResourceError):
        async with await trio.open_tcp_stream(url.host, url.port or 0) as stream:
            await stream.send_all(f"{head}\r\nConnection: close\r\n\r\n{body}".encode())
            async for chunk in stream:
                answer += chunk
    return int(answer.split()[1]) if answer else 0


def new_client(url: str) -> httpx.AsyncClient:
    """A client that opens as many connections as there are requests at a time."""
    return httpx.AsyncClient(
        base_url=url,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        timeout=PATIENCE,
        trust_env=False,
    )


def environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """The environment of a command: this one without its settings, and these variables."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("TRIO_JOBS_")
    }
    # The package that the tests import, wherever the command is started.
    path = [str(Path(trio_jobs.__file__).parents[1]), inherited.get("PYTHONPATH", "")]
    inherited["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return {**inherited, **(_ANY_PORT if more is None else more)}


async def each_line_is_answered_at_once(run: ForkedProcess) -> None:
    """Send numbers to a run that reads its standard input, each when the last one is answered."""
    assert run.stdin is not None
    assert run.stdout is not None
    for number in range(1, 11):
        await run.stdin.send_all(b"%d\n" % number)
        answer = json.loads(await run.stdout.receive_some(10_000))
        assert (answer["line"], answer["result"]) == (number, number)
