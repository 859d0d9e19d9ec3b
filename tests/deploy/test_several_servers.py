"""The page about several servers: its compose file with Podman, two servers behind nginx."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.deploy.deployed import WAIT
from tests.deploy.other_images import write_nginx_image, write_postgres_image
from tests.deploy.podman import COMPOSE, PROJECT, new_machine, pack, place_project
from tests.deploy.room import Room
from tests.docs.blocks import DOCS, blocks_of
from tests.docs.machine import need, pass_over

DEPLOY = {block.name: block.text for block in blocks_of(DOCS / "how-to/deploy.md")}
PAGE = {block.name: block.text for block in blocks_of(DOCS / "how-to/several-servers.md")}
FILES = {
    **{name: DEPLOY[name] for name in ("Dockerfile", ".dockerignore")},
    **{name: PAGE[name] for name in ("pyproject.toml", "compose.yaml", "nginx.conf", "upgrade.sh")},
    ".env": "DATABASE_PASSWORD=secret\n",
}
SERVERS = ("jobs-1", "jobs-2")
PID = "{{.State.Pid}}"
NAMES = Path("/usr/lib/podman/aardvark-dns")
# The page's commands are Docker's.
DOCKER = f"""#!/bin/sh
shift
exec {" ".join(COMPOSE)} "$@"
"""


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, base_image: Path, own_wheel: Path) -> Path:
    """A machine with the project and the images of the page's file."""
    need("nginx")
    if not NAMES.exists():
        pass_over("needs aardvark-dns: containers find each other by their names")
    folder = tmp_path_factory.mktemp("packed")
    images = re.findall(r"image: (\S+:\S+)$", FILES["compose.yaml"], re.MULTILINE)
    for name in ("postgres", "nginx"):
        (folder / name).mkdir()
    write_postgres_image(folder / "postgres")
    write_nginx_image(folder / "nginx")

    async def build(room: Room) -> None:
        await place_project(room, own_wheel, FILES)
        for image in images:
            context = folder / image.partition(":")[0]
            await room.run("podman", "build", "--tag", f"docker.io/library/{image}", str(context))
        await room.run("podman", "build", "--tag", "shop-jobs", PROJECT)

    with new_machine(folder, base_image) as room:
        trio.run(build, room)
        pack(room, folder / "machine.tar")
    return folder / "machine.tar"


@dataclass(frozen=True, slots=True)
class Site:
    """The services of the page's file, behind nginx."""

    room: Room

    async def curl(self, path: str, *arguments: str) -> dict[str, Any]:
        """What nginx answers, as JSON; it is asked again while that is a 502 or a 503."""
        again = ("--fail", "--retry", "60", "--retry-connrefused", "--retry-delay", "1")
        answer = await self.room.run(
            "curl", "-s", *again, f"http://localhost:8080{path}", *arguments
        )
        found: dict[str, Any] = json.loads(answer)
        return found

    async def submit(self, job_type: str, *arguments: str) -> dict[str, Any]:
        """Submit a job to one of the servers; the job."""
        body = json.dumps({"type": job_type})
        return await self.curl("/jobs", "-d", body, *arguments)

    async def ended(self, job_id: str) -> dict[str, Any]:
        """A job once it has ended, from one of the servers."""
        while True:
            job = await self.curl(f"/jobs/{job_id}", "-H", WAIT)
            if job["status"] == "completed":
                return job

    async def make_gates(self) -> dict[str, str]:
        """For each server the gate of its handlers, as a path in the room."""
        gates = {
            server: f"/proc/{await self.inspect(server, PID)}/root/opt/shop/gate"
            for server in SERVERS
        }
        await self.room.run("rm", "-f", *gates.values())
        await self.room.run("mkfifo", *gates.values())
        return gates

    async def busy_server(self) -> str:
        """The service that runs a job, once one of them does."""
        while True:
            for number in (1, 2):
                if (await self.curl(f"/{number}/pool"))["slots"]:
                    return f"jobs-{number}"

    async def inspect(self, service: str, field: str) -> str:
        """What Podman says about the container of a service."""
        container = f"shop_{service}_1"
        return (await self.room.run("podman", "inspect", f"--format={field}", container)).strip()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, packed: Path) -> Iterator[Room]:
    """A machine with the services of the page's file, as the page starts them."""

    async def start() -> None:
        await room.write("/usr/local/bin/docker", DOCKER)
        await room.run("chmod", "+x", "/usr/local/bin/docker")
        await room.run(*COMPOSE, "up", "--detach")

    with new_machine(tmp_path_factory.mktemp("started"), packed) as room:
        trio.run(start)
        yield room


@pytest.fixture
async def site(started: Room) -> Site:
    """The services, once both servers serve; a test may have stopped one."""
    await started.run("podman", "start", *(f"shop_{server}_1" for server in SERVERS))
    site = Site(started)
    for server in SERVERS:
        await site.curl(f"/{server[-1]}/health/ready")
    return site


async def test_two_servers_behind_nginx_share_the_jobs(site: Site) -> None:
    submitted = [await site.submit("where") for _ in range(40)]

    ended = [await site.ended(job["id"]) for job in submitted]

    assert {job["outcome"] for job in ended} == {"succeeded"}
    assert {job["attempts"] for job in ended} == {1}
    assert len({job["result"] for job in ended}) == 2
    for number in (1, 2):
        pool = await site.curl(f"/{number}/pool")
        assert pool["types"]["where"]["submitted"], f"nginx leaves jobs-{number} out"


async def test_stopped_server_leaves_its_jobs_to_the_other_one(site: Site) -> None:
    gates = await site.make_gates()
    held = await site.submit("hold")
    server = await site.busy_server()
    others = [await site.submit("where") for _ in range(10)]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.room.run, "podman", "stop", "-t", "30", f"shop_{server}_1")
        ended = [await site.ended(job["id"]) for job in others]
        await site.room.run("sh", "-c", f"echo open >{gates[server]}")

    ended.append(await site.ended(held["id"]))
    assert {(job["outcome"], job["attempts"]) for job in ended} == {("succeeded", 1)}
    assert await site.inspect(server, "{{.State.ExitCode}}") == "0"


async def test_job_of_a_killed_server_runs_at_the_other_one(site: Site) -> None:
    gates = await site.make_gates()
    held = await site.submit("hold")
    server = await site.busy_server()
    gates.pop(server)
    await site.room.run("podman", "stop", "-t", "0", f"shop_{server}_1")

    [gate] = gates.values()
    await site.room.run("sh", "-c", f"echo open >{gate}")  # waits for the job to begin there

    ended = await site.ended(held["id"])
    assert (ended["outcome"], ended["attempts"]) == ("succeeded", 2)
    assert await site.inspect(server, "{{.State.ExitCode}}") == "137"


async def test_restart_of_the_database_loses_nothing(site: Site) -> None:
    jobs: list[dict[str, Any]] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(site.room.run, "podman", "restart", "-t", "10", "shop_database_1")
        jobs += [await site.submit("where") for _ in range(40)]

    ended = [await site.ended(job["id"]) for job in jobs]
    assert {(job["outcome"], job["attempts"]) for job in ended} == {("succeeded", 1)}


async def test_servers_are_replaced_one_after_the_other(site: Site) -> None:
    before = {await site.inspect(server, "{{.Id}}") for server in SERVERS}
    jobs: list[dict[str, Any]] = []

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def submit() -> None:
            while True:
                jobs.append(await site.submit("where", "-H", WAIT))

        await site.room.run("sh", "-c", f"cd {PROJECT} && sh upgrade.sh")
        nursery.cancel_scope.cancel()

    ended = [await site.ended(job["id"]) for job in jobs]
    assert {(job["outcome"], job["attempts"]) for job in ended} == {("succeeded", 1)}
    after = {await site.inspect(server, "{{.Id}}") for server in SERVERS}
    assert before.isdisjoint(after)
