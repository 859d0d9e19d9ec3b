"""Machines with Podman: each has the images and the project that have been packed for it.

Podman's images are built once, with what it keeps of each step: a machine that builds from the same
files finds them.
"""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import trio

from tests.deploy.deployed import SHOP, block_named
from tests.deploy.room import Room, need_room, open_room
from tests.docs.machine import need, pass_over

PROJECT = "/root/shop"
COMPOSE = (sys.executable, "-m", "podman_compose", f"--file={PROJECT}/compose.yaml")

[_from] = re.findall(r"^FROM (.*)$", block_named("Dockerfile").text, re.MULTILINE)
BASE = f"docker.io/library/{_from}"

# Podman cannot put its layers into the layers that a room consists of.
LAYERS = ("/var/lib/containers", "/var/tmp")  # noqa: S108
# Layers mark by such attributes what they hide.
TAR = ("--xattrs", "--xattrs-include=trusted.*")


def need_podman() -> None:
    """Skip the test where there can be no such machine."""
    need("podman", "iptables", "catatonit")
    need_room()
    if importlib.util.find_spec("podman_compose") is None:
        pass_over("needs podman-compose")


@contextmanager
def new_machine(folder: Path, packed: Path | None = None) -> Iterator[Room]:
    """Open a room for Podman, with what another one has packed."""

    async def unpack() -> None:
        for layers in LAYERS:
            await room.run("sh", "-c", f"mkdir -p {layers} && mount -t tmpfs podman {layers}")
        if packed is not None:
            await room.run("tar", *TAR, "-C", "/", "-xf", str(packed))

    with open_room(folder, "catatonit", "-P") as room:
        trio.run(unpack)
        yield room


def pack(room: Room, archive: Path) -> None:
    """Write Podman's images and the project, if there is one, into an archive."""
    kept = [path[1:] for path in (LAYERS[0], PROJECT) if room.path(path).exists()]
    subprocess.run(["tar", *TAR, "-C", room.path("/"), "-cf", archive, *kept], check=True)


async def place_project(room: Room, own_wheel: Path, files: Mapping[str, str]) -> None:
    """Write the project with a page's files."""
    await room.run("cp", "-r", str(SHOP), PROJECT)
    await room.run("mkdir", f"{PROJECT}/wheels")
    await room.run("cp", str(own_wheel), f"{PROJECT}/wheels")
    for name, text in files.items():
        await room.write(f"{PROJECT}/{name}", text)
