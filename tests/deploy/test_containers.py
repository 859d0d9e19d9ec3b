"""The files for containers of the page about deployment, with Podman: built, run and stopped."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.deploy.deployed import Deployed, block_named, follow_log
from tests.deploy.podman import COMPOSE, PROJECT, new_machine, pack, place_project
from tests.deploy.room import Room

PID, EXIT_STATUS, USER = "{{.State.Pid}}", "{{.State.ExitCode}}", "{{.Config.User}}"
# What a project's folder has beside the project.
CLUTTER = (".git/config", ".venv/pyvenv.cfg", "__pycache__/shop.pyc", "more/__pycache__/more.pyc")
FILES = ("pyproject.toml", "Dockerfile", ".dockerignore", "compose.yaml", "pod.yaml")


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory, base_image: Path, own_wheel: Path) -> Path:
    """A machine with the project and its image."""
    folder = tmp_path_factory.mktemp("packed")

    files = {name: block_named(name).text for name in FILES} | dict.fromkeys(CLUTTER, "")

    async def build(room: Room) -> None:
        await place_project(room, own_wheel, files)
        await room.run("podman", "build", "--tag", "shop-jobs", PROJECT)

    with new_machine(folder, base_image) as room:
        trio.run(build, room)
        pack(room, folder / "machine.tar")
    return folder / "machine.tar"


@pytest.fixture
def room(tmp_path: Path, packed: Path) -> Iterator[Room]:
    """A machine with Podman, both images, and the project with the page's files."""
    with new_machine(tmp_path, packed) as room:
        yield room


async def inspect(room: Room, container: str, field: str) -> str:
    """What Podman says about a container."""
    return (await room.run("podman", "inspect", f"--format={field}", container)).strip()


@asynccontextmanager
async def followed(room: Room, folder: Path, container: str) -> AsyncIterator[Deployed]:
    """A container that has been started, once it serves."""
    gate = f"/proc/{await inspect(room, container, PID)}/root/opt/shop/gate"
    async with follow_log(room, folder, "podman", "logs", "--follow", container) as log:
        yield Deployed(room=room, gate=gate, log=log)


async def leave_programs(room: Room, container: str, deployed: Deployed) -> None:
    """Have handlers leave programs behind; none must stay, defunct or not."""
    processes = f"/proc/{await inspect(room, container, PID)}/root/proc"
    left = [str((await deployed.run_job("background"))["result"]) for _ in range(3)]
    for pid in left:
        gone = f"while read -r line <{processes}/{pid}/stat; do sleep 0.1; done 2>/dev/null"
        await room.run("timeout", "30", "sh", "-c", gone)


async def test_image_has_a_user_and_the_project_alone(room: Room) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", await inspect(room, "shop-jobs", USER))
    look = "import os; print(os.getuid(), *sorted(os.listdir()), *os.listdir('more'))"
    told = await room.run("podman", "run", "--entrypoint=python3", "shop-jobs", "-c", look)
    assert told.split() == ["65532", "config.toml", "more", "pyproject.toml", "shop.py", "wheels"]


async def test_container_waits_for_the_jobs_when_it_is_stopped(room: Room, tmp_path: Path) -> None:
    await room.run("podman", "run", "-d", "--name=jobs", "-p", "127.0.0.1:8080:8080", "shop-jobs")

    async with followed(room, tmp_path, "jobs") as deployed:
        await leave_programs(room, "jobs", deployed)
        await deployed.stop_with_jobs("podman", "stop", "-t", "30", "jobs")

    assert await inspect(room, "jobs", EXIT_STATUS) == "0"


async def test_compose_waits_for_the_jobs_when_it_stops(room: Room, tmp_path: Path) -> None:
    await room.run(*COMPOSE, "up", "--detach")

    async with followed(room, tmp_path, "shop_jobs_1") as deployed:
        await leave_programs(room, "shop_jobs_1", deployed)
        await deployed.stop_with_jobs(*COMPOSE, "stop")

    assert await inspect(room, "shop_jobs_1", EXIT_STATUS) == "0"


async def test_pod_is_probed_and_waits_for_the_jobs_when_it_is_stopped(
    room: Room, tmp_path: Path
) -> None:
    pod = block_named("pod.yaml").text
    [grace] = re.findall(r"terminationGracePeriodSeconds: (\d+)", pod)
    probes = dict(re.findall(r"(\w+)Probe:\s+httpGet: {path: (\S+), port: 8080}", pod))
    await room.run("podman", "kube", "play", f"{PROJECT}/pod.yaml")

    async with followed(room, tmp_path, "jobs-jobs") as container:
        networks = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        address = await inspect(room, "jobs-jobs", networks)
        deployed = replace(
            container,
            address=f"{address}:8080",
            alive=probes["liveness"],
            ready=probes["readiness"],
        )
        await leave_programs(room, "jobs-jobs", deployed)
        # Podman runs pods, but neither asks whether they are ready nor gives them their time: the
        # test does here what the kubelet does.
        await deployed.stop_with_jobs("podman", "stop", "-t", grace, "jobs-jobs")

    assert await inspect(room, "jobs-jobs", EXIT_STATUS) == "0"
