"""The upgrade of the page about deployment, under load: a new version beside, a link, a restart."""

import signal
import sys
import venv
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import httpx
import trio

from tests.command import PATIENCE, Command, post_job, running_command

CONFIG = """
[pool]
workers = 2
buffer_size = 20
processes = 2
[handlers]
in_loop = "shop:in_loop"
separate = { call = "shop:separate", run = "process" }
"""
# Each attempt to submit a job has a number, which its job notes beside the version that runs it.
SHOP = """
import os
from pathlib import Path

import trio

LEDGER = Path(__file__).parents[1] / "ledger"

def separate(attempt):
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, f"{attempt} VERSION\\n".encode())
    os.close(ledger)

async def in_loop(attempt):
    await trio.sleep(0.001)  # some are running or waiting whenever the stop comes
    separate(attempt)
"""
SCRIPT = """
import sys
from trio_jobs.cli import run

if __name__ == "__main__":
    sys.exit(run())
"""
CLIENTS = 6
ENOUGH = 100  # accepted jobs of each part of the test


def make_version(folder: Path, version: int) -> None:
    """A version of the project, with an environment of its own, as `pip` would have made it."""
    environment = folder / ".venv"
    venv.create(environment, symlinks=True)
    [packages] = environment.glob("lib/python*/site-packages")
    installed = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})" for path in installed]
    (packages / "installed.pth").write_text("\n".join(lines))
    script = environment / "bin/trio-jobs"
    script.write_text(f"#!{environment}/bin/python3\n{SCRIPT}")
    script.chmod(0o755)
    (folder / "config.toml").write_text(CONFIG)
    (folder / "shop.py").write_text(SHOP.replace("VERSION", str(version)))


def lead_to(link: Path, version: Path) -> None:
    """What the page's `ln` and `mv` do."""
    following = link.with_name("next")
    following.symlink_to(version.name)
    following.rename(link)


@asynccontextmanager
async def running_shop(link: Path, address: str) -> AsyncIterator[Command]:
    """The server of the version that the link leads to."""
    async with running_command(
        link,
        environment={"TRIO_JOBS_HTTP_BIND": address},
        command=[f"{link}/.venv/bin/trio-jobs"],
    ) as server:
        yield server


class Clients:
    """Clients that submit jobs, and try again when they are refused, whatever happens.

    Attributes:
        job_types: What they submit, in turn.
        accepted: The attempts that were answered with 201, since it was last cleared.
    """

    def __init__(self, url: str) -> None:
        self.job_types = ["in_loop"]
        self.accepted: list[int] = []
        self._url = httpx.URL(url)
        self._attempts = count()
        self._more = trio.Event()
        self._leaving = False

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(self._submit_jobs)

    async def _submit_jobs(self) -> None:
        while not self._leaving:
            attempt = next(self._attempts)
            job_type = self.job_types[attempt % len(self.job_types)]
            status = await post_job(self._url, job_type, attempt)
            if status == 201:
                self.accepted.append(attempt)
                self._more.set()
                self._more = trio.Event()
            else:
                assert status in {0, 429, 503}  # 0: there was nobody to connect to
                await trio.sleep(0.02)  # a client with less to do waits for as long as it is told

    async def wait_accepted(self, more: int = ENOUGH) -> None:
        """Wait until so many more jobs are accepted."""
        enough = len(self.accepted) + more
        with trio.fail_after(PATIENCE):
            while len(self.accepted) < enough:
                await self._more.wait()

    def leave(self) -> None:
        """Submit no more."""
        self._leaving = True


async def test_every_accepted_job_is_completed_once_when_the_server_is_upgraded_under_load(
    tmp_path: Path,
) -> None:
    link, old, new = (tmp_path / name for name in ("shop", "shop-1", "shop-2"))
    make_version(old, 1)
    lead_to(link, old)

    async with trio.open_nursery() as nursery:
        async with running_shop(link, "127.0.0.1:0") as server:
            address = server.url.removeprefix("http://")
            clients = Clients(server.url)
            nursery.start_soon(clients.run)
            await clients.wait_accepted()
            make_version(new, 2)
            lead_to(link, new)
            # The first children start when the link leads to the new version.
            clients.job_types = ["in_loop", "separate"]
            await clients.wait_accepted()
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0
        by_the_old, clients.accepted = clients.accepted, []
        async with running_shop(link, address) as server:
            await clients.wait_accepted()
            clients.leave()
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0

    # Whatever was not answered with 201 has not run.
    lines = Counter((tmp_path / "ledger").read_text().splitlines())
    assert lines == Counter(
        [f"{attempt} 1" for attempt in by_the_old]
        + [f"{attempt} 2" for attempt in clients.accepted]
    )
