"""The files for containers of the page about deployment, with Podman: built, run and stopped."""

import importlib.util
import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.deploy.deployed import SHOP, Deployed, block_named, follow_log
from tests.deploy.image import need_image, write_image
from tests.deploy.room import Room, need_room, open_room
from tests.docs.machine import need, pass_over

PID, EXIT_STATUS, USER = "{{.State.Pid}}", "{{.State.ExitCode}}", "{{.Config.User}}"
# What a project's folder has beside the project.
CLUTTER = (".git/config", ".venv/pyvenv.cfg", "__pycache__/shop.pyc", "more/__pycache__/more.pyc")
FILES = ("pyproject.toml", "Dockerfile", ".dockerignore", "compose.yaml", "pod.yaml")


@pytest.fixture(scope="session", autouse=True)  # before what needs it
def podman_is_there() -> None:
    need("podman", "iptables", "catatonit")
    need_room()
    need_image()
    if importlib.util.find_spec("podman_compose") is None:
        pass_over("needs podman-compose")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, wheels: Path, own_wheel: Path) -> Path:
    """The folder that the base image is built from."""
    folder = tmp_path_factory.mktemp("base")
    write_image(folder, wheels)
    (folder / "wheels" / own_wheel.name).unlink()
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, base: Path, own_wheel: Path) -> Path:
    """The base image and the project's, as an archive: each is built once for all machines."""
    folder = tmp_path_factory.mktemp("images")
    archive = folder / "images.tar"

    async def build() -> None:
        async with open_room(folder, "catatonit", "-P") as room:
            await place_project(room, own_wheel)
            [image] = re.findall(r"^FROM (.*)$", block_named("Dockerfile").text, re.MULTILINE)
            names = [f"docker.io/library/{image}", "shop-jobs"]
            for name, context in zip(names, (str(base), "/root/shop"), strict=True):
                await room.run("podman", "build", "--tag", name, context)
            await room.run("podman", "save", "--multi-image-archive", "-o", "/root/images", *names)
            shutil.copy(room.path("/root/images"), archive)

    trio.run(build)
    return archive


@pytest.fixture
async def room(tmp_path: Path, images: Path, own_wheel: Path) -> AsyncIterator[Room]:
    """A machine with Podman, both images, and the project with the page's files."""
    async with open_room(tmp_path, "catatonit", "-P") as room:
        await place_project(room, own_wheel)
        await room.run("podman", "load", "--input", str(images))
        yield room


async def place_project(room: Room, own_wheel: Path) -> None:
    """Make room for Podman's layers, and write the project with the page's files."""
    for folder in ("/var/lib/containers", "/var/tmp"):  # noqa: S108 - where Podman puts layers
        await room.run("mkdir", "-p", folder)
        await room.run("mount", "-t", "tmpfs", "podman", folder)
    await room.run("cp", "-r", str(SHOP), "/root/shop")
    await room.run("mkdir", "/root/shop/wheels")
    await room.run("cp", str(own_wheel), "/root/shop/wheels")
    for name in FILES:
        await room.write(f"/root/shop/{name}", block_named(name).text)


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
    for name in CLUTTER:
        await room.write(f"/root/shop/{name}", "")

    await room.run("podman", "build", "--tag=with-clutter", "/root/shop")

    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", await inspect(room, "with-clutter", USER))
    look = "import os; print(os.getuid(), *sorted(os.listdir()), *os.listdir('more'))"
    told = await room.run("podman", "run", "--entrypoint=python3", "with-clutter", "-c", look)
    assert told.split() == ["65532", "config.toml", "more", "pyproject.toml", "shop.py", "wheels"]


async def test_container_waits_for_the_jobs_when_it_is_stopped(room: Room, tmp_path: Path) -> None:
    await room.run("podman", "run", "-d", "--name=jobs", "-p", "127.0.0.1:8080:8080", "shop-jobs")

    async with followed(room, tmp_path, "jobs") as deployed:
        await leave_programs(room, "jobs", deployed)
        await deployed.stop_with_jobs("podman", "stop", "-t", "30", "jobs")

    assert await inspect(room, "jobs", EXIT_STATUS) == "0"


async def test_compose_waits_for_the_jobs_when_it_stops(room: Room, tmp_path: Path) -> None:
    compose = (sys.executable, "-m", "podman_compose", "--file=/root/shop/compose.yaml")
    await room.run(*compose, "up", "--detach")

    async with followed(room, tmp_path, "shop_jobs_1") as deployed:
        await leave_programs(room, "shop_jobs_1", deployed)
        await deployed.stop_with_jobs(*compose, "stop")

    assert await inspect(room, "shop_jobs_1", EXIT_STATUS) == "0"


async def test_pod_is_probed_and_waits_for_the_jobs_when_it_is_stopped(
    room: Room, tmp_path: Path
) -> None:
    pod = block_named("pod.yaml").text
    [grace] = re.findall(r"terminationGracePeriodSeconds: (\d+)", pod)
    probes = dict(re.findall(r"(\w+)Probe:\s+httpGet: {path: (\S+), port: 8080}", pod))
    await room.run("podman", "kube", "play", "/root/shop/pod.yaml")

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
