"""The commands that talk to a server: the real command, against a real server that they share."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread

import pytest

from tests.command import MODULE, PATIENCE, environment, write_files

# One worker: what is behind a job that waits at the gate stays pending.
CONFIG = """
[pool]
workers = 1
buffer_size = 2
[handlers]
quick = "shop:quick"
email = "shop:email"
wait = "shop:wait"
"""
SHOP = r"""
import trio

async def quick(payload):
    return payload

async def email(address: str):
    if "@" not in address:
        raise ValueError(f"{address!r} is no address \u202e1")
    return f"sent to {address}"

async def wait(_payload):
    await trio.sleep_forever()
"""


class Shop:
    """A running server, and who asks it.

    Attributes:
        folder: Where both run.
        url: The server's.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def ask(
        self, *arguments: str, given: bytes = b"", command: Sequence[str] = MODULE
    ) -> subprocess.CompletedProcess[bytes]:
        """A command from beginning to end."""
        return subprocess.run(
            [*command, *arguments],
            cwd=self.folder,
            env=environment({"TRIO_JOBS_URL": self.url}),
            input=given,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )

    def output(self, *arguments: str, given: bytes = b"") -> str:
        """What a command writes that does what it is asked for."""
        done = self.ask(*arguments, given=given)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The server that the tests share."""
    folder = tmp_path_factory.mktemp("shop")
    write_files(folder, config=CONFIG)
    (folder / "shop.py").write_text(SHOP)
    with subprocess.Popen(
        MODULE, cwd=folder, env=environment(None), stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        line = next(line for line in server.stderr if "Running on http" in line)
        reader = Thread(target=server.stderr.read)  # otherwise the log would lose lines
        reader.start()
        try:
            yield Shop(folder, line.split()[-1])
        finally:
            server.kill()
            reader.join()


def test_submit_prints_the_id_and_with_wait_the_result(shop: Shop) -> None:
    job_id = shop.output("submit", "quick", '{"a": "\u00e9"}').strip()

    assert shop.output("submit", "email", '"a@b"', "--wait") == '"sent to a@b"\n'
    assert (
        shop.output("submit", "quick", "-", "--wait=30", given=b' {"a":\n1.50} ') == '{"a":1.5}\n'
    )
    assert len(job_id) == 36


def test_a_failed_job_is_one_line_and_status_3(shop: Shop) -> None:
    done = shop.ask("submit", "email", '"a"', "--wait")

    assert (done.returncode, done.stdout) == (3, b"")
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("trio-jobs: job ")
    assert line.endswith(" failed: ValueError: 'a' is no address  1")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["submit", "emil"], "no handler for type 'emil'"),
        (["submit", "email", "1"], "$.payload: expected str, got int"),
        (["submit", "email", "{"], "PAYLOAD must be JSON, got '{'"),
        (["submit", "email", '1,"key":"a"'], "PAYLOAD must be JSON"),
        (["submit", "email", "--url=ftp://a"], "--url must be http://HOST:PORT"),
        (["submit", "email", "--token-file=nowhere"], "--token-file nowhere: No such file"),
    ],
)
def test_what_is_refused_is_one_line_and_status_2(
    shop: Shop, arguments: list[str], complaint: str
) -> None:
    done = shop.ask(*arguments)

    assert (done.returncode, done.stdout) == (2, b"")
    [line] = done.stderr.decode().splitlines()
    assert line.startswith(f"trio-jobs: {complaint}")


# The HTTP client imports Trio by itself.
OF_THE_SERVER = ("quart", "hypercorn", "trio_jobs.pool", "trio_jobs.config", "trio_jobs.main")
SHOW_MODULES = """
import sys
from trio_jobs.cli import run
try:
    status = run()
finally:
    print(" ".join(sys.modules), file=sys.stderr)
"""


def test_a_command_imports_no_server_and_a_server_imports_no_http_client(shop: Shop) -> None:
    command = (sys.executable, "-c", SHOW_MODULES)
    submitted = shop.ask("submit", "quick", f"--url={shop.url}", "--wait", command=command)
    checked = shop.ask("--check", command=(sys.executable, "-X", "importtime", *MODULE[1:]))

    modules = submitted.stderr.decode().split()
    assert (submitted.returncode, submitted.stdout) == (0, b"null\n")
    assert "httpx" in modules
    assert not {*OF_THE_SERVER} & {*modules}
    imported = {line.rpartition("|")[2].strip() for line in checked.stderr.decode().splitlines()}
    assert "trio_jobs.main" in imported
    assert not {"httpx", "trio_jobs.commands.submit_command"} & imported
