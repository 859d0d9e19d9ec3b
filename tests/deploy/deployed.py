"""What is the same wherever the page about deployment puts its server: a stop with jobs in it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from tests.command import Command, started_command
from tests.deploy.room import Room
from tests.docs.blocks import DOCS, ROOT, Block, blocks_of

SHOP = ROOT / "tests/deploy/shop"  # the project that is deployed

WAIT = "Prefer: wait=30"


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
        address: Where it serves.
        alive: The path that answers 200 until the end.
        ready: The path that answers 200 until a stop begins, and 503 then.
    """

    room: Room
    gate: str
    log: Command
    address: str = "localhost:8080"
    alive: str = "/health"
    ready: str = "/health/ready"

    async def curl(self, path: str, *arguments: str) -> str:
        return await self.room.run("curl", "-sS", f"{self.address}{path}", *arguments)

    async def submit(self, job_type: str) -> str:
        body = json.dumps({"type": job_type})
        return str(json.loads(await self.curl("/jobs", "-d", body))["id"])

    async def run_job(self, job_type: str, payload: object = None) -> dict[str, Any]:
        """Submit a job and wait for it; the job."""
        body = json.dumps({"type": job_type, "payload": payload})
        job: dict[str, Any] = json.loads(await self.curl("/jobs", "-d", body, "-H", WAIT))
        return job

    async def probe(self) -> tuple[str, str]:
        """What `alive` and `ready` answer."""
        statuses = [
            await self.curl(path, "-o", "/dev/null", "-w", "%{http_code}")
            for path in (self.alive, self.ready)
        ]
        return statuses[0], statuses[1]

    async def stop_with_jobs(self, *stop: str) -> None:
        """Stop it by this command while a job runs and one waits: both must succeed.

        The first one goes on for 3 s after the signal.
        """
        assert await self.probe() == ("200", "200")
        await self.room.run("mkfifo", self.gate)
        held, queued = await self.submit("hold"), await self.submit("email")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.room.run, *stop)
            await self.log.wait_for_line("draining")
            waited = await self.curl(f"/jobs/{held}", "-H", "Prefer: wait=3")
            assert json.loads(waited)["status"] == "processing"
            assert await self.probe() == ("200", "503")
            await self.room.run("sh", "-c", f"echo open >{self.gate}")
        await self.log.wait_for_line('"stopped", "status": 0')
        succeeded = [json.loads(line)["job_id"] for line in self.log.lines_with("job_succeeded")]
        assert succeeded[-2:] == [held, queued]


@asynccontextmanager
async def follow_log(room: Room, folder: Path, *command: str) -> AsyncIterator[Command]:
    """Follow the log of a server by a command that writes it, from where it serves."""
    inside = room.inside("sh", "-c", f"exec {' '.join(command)} >&2")
    async with started_command(folder / "log", command=inside) as log:
        await log.wait_for_line("Running on http")
        yield log
