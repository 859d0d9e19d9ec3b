"""What is the same wherever the page about deployment puts its server: a stop with jobs in it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.command import Command, started_command
from tests.docs.blocks import DOCS, ROOT, Block, blocks_of
from tests.docs.room import Room

SHOP = ROOT / "tests/docs/shop"  # the project that is deployed


def block_named(name: str) -> Block:
    """The page's block with this file."""
    [block] = [each for each in blocks_of(DOCS / "how-to/deploy.md") if each.name == name]
    return block


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A server that runs in a room, with the handlers of ``shop``.

    Attributes:
        room: Where.
        gate: Its handlers' gate, as a path in the room.
        log: What follows its log.
        before: What goes before a command that is to reach it.
    """

    room: Room
    gate: str
    log: Command
    before: tuple[str, ...] = ()

    async def curl(self, *arguments: str) -> str:
        return await self.room.run(*self.before, "curl", "-sS", *arguments)

    async def submit(self, job_type: str) -> str:
        body = json.dumps({"type": job_type})
        return str(json.loads(await self.curl("localhost:8080/jobs", "-d", body))["id"])

    async def status(self, path: str) -> str:
        """The status of the answer to GET."""
        return await self.curl("-o", "/dev/null", "-w", "%{http_code}", f"localhost:8080{path}")

    async def stop_with_jobs(self, *stop: str) -> None:
        """Stop it by this command while a job runs and one waits: both must succeed.

        The first one goes on for 3 s after the signal.
        """
        await self.room.run("mkfifo", self.gate)
        held, queued = await self.submit("hold"), await self.submit("email")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.room.run, *stop)
            await self.log.wait_for_line("draining")
            waited = await self.curl(f"localhost:8080/jobs/{held}", "-H", "Prefer: wait=3")
            assert json.loads(waited)["status"] == "processing"
            assert await self.status("/health") == "200"
            assert await self.status("/health/ready") == "503"
            await self.room.run("sh", "-c", f"echo open >{self.gate}")
        await self.log.wait_for_line('"stopped", "status": 0')
        succeeded = [json.loads(line)["job_id"] for line in self.log.lines_with("job_succeeded")]
        assert succeeded == [held, queued]


@asynccontextmanager
async def followed(
    room: Room, folder: Path, gate: str, *follow: str, before: tuple[str, ...] = ()
) -> AsyncIterator[Deployed]:
    """Follow the log of a server by a command that writes it; the server, once it serves."""
    inside = room.inside("sh", "-c", f"exec {' '.join(follow)} >&2")
    async with started_command(folder / "log", command=inside) as log:
        await log.wait_for_line("Running on http")
        yield Deployed(room=room, gate=gate, log=log, before=before)
