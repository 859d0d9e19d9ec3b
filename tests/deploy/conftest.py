"""For the tests that deploy: what an index of packages would have, and machines with Podman."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.deploy.image import SETTINGS, need_image, write_image
from tests.deploy.podman import BASE, need_podman, new_machine, pack
from tests.deploy.room import Room
from tests.docs.blocks import ROOT

# What the projects of the pages need beside trio-jobs.
PACKAGES = ("hatchling", "psycopg[binary]")

# Makes a folder of this name, unless a process of the run has made it.
Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes for all processes of pytest-xdist what takes long."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / name
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                making = tmp_path_factory.mktemp(name)
                make(making)
                making.rename(folder)
        return folder

    return once


@pytest.fixture(scope="session")
def wheels(once: Once) -> Path:
    """The wheels of trio-jobs, of what it needs, and of what projects are built with."""

    def make(folder: Path) -> None:
        pip = (sys.executable, "-m", "pip", "wheel", "-qq", "-w", folder)
        subprocess.run([*pip, ROOT, *PACKAGES], check=True)

    return once("wheels", make)


@pytest.fixture(scope="session")
def own_wheel(wheels: Path) -> Path:
    """That of trio-jobs, which the page has its reader make, as no index has it."""
    [wheel] = wheels.glob("trio_jobs-*.whl")
    return wheel


@pytest.fixture(scope="session")
def base_image(once: Once, wheels: Path, own_wheel: Path) -> Path:
    """The image of Python, as a machine that has been packed."""
    need_podman()
    need_image()

    def make(folder: Path) -> None:
        files = folder / "files"
        write_image(files, wheels)
        (files / "wheels" / own_wheel.name).unlink()
        with new_machine(folder) as room:
            trio.run(build, room, files)
            pack(room, folder / "machine.tar")

    async def build(room: Room, files: Path) -> None:
        await room.run("tar", "-C", str(files), "-cf", "/root/files", ".")
        await room.run("podman", "import", *SETTINGS, "/root/files", BASE)

    return once("base_image", make) / "machine.tar"
