"""The unit of the page about deployment, on a machine that systemd has booted."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.command import started_command
from tests.docs.deployed import SHOP, Deployed, block_named, follow_log
from tests.docs.machine import need
from tests.docs.room import Room, need_room, open_room

pytestmark = pytest.mark.deploy

PATH = "/etc/systemd/system/trio-jobs.service"
UNIT = block_named(PATH)
SYSTEMD = "/lib/systemd/systemd"
JOURNAL = ("journalctl", "--unit=trio-jobs", "--output=cat", "--follow", "--lines=all")

# The project's folder, as its reader would have made it. Python may be in somebody's home.
INSTALL = f"""
for folder in {" ".join(map(str, Path(sys.base_prefix).parents))}; do chmod a+x $folder; done
cp -r {SHOP}/. /opt/shop
cd /opt/shop
{sys.base_prefix}/bin/python3 -m venv .venv
.venv/bin/pip install --no-index --find-links "$1" .
"""
# Of the machine's own units only the journal starts.
BOOT = f"""
find /etc/systemd/system /lib/systemd/system -path '*.wants/*' ! -name 'systemd-journald*' -delete
exec env container=room {SYSTEMD} --unit=multi-user.target
"""


@pytest.fixture(autouse=True)
def systemd_is_there() -> None:
    need(SYSTEMD, "systemctl", "systemd-analyze", "journalctl")
    need_room()


@pytest.fixture
async def room(tmp_path: Path, wheels: Path) -> AsyncIterator[Room]:
    """A machine with the project and the unit."""
    async with open_room(tmp_path, "bash", "-euc", BOOT) as room:
        await room.write("/opt/shop/pyproject.toml", block_named("pyproject.toml").text)
        await room.run("bash", "-euc", INSTALL, "-", str(wheels))
        await room.write(PATH, UNIT.text)
        yield room


@asynccontextmanager
async def started(room: Room, folder: Path) -> AsyncIterator[Deployed]:
    """The unit, enabled and started."""
    await room.run("systemctl", "enable", "--now", "trio-jobs")
    async with follow_log(room, folder, *JOURNAL) as log:
        yield Deployed(room=room, gate="/opt/shop/gate", log=log)


async def state(room: Room) -> dict[str, str]:
    """What systemd says about the unit."""
    names = ["ActiveState", "Result", "ExecMainStatus", "NRestarts"]
    shown = await room.run(
        "systemctl", "show", "trio-jobs", *(f"--property={name}" for name in names)
    )
    return dict(line.split("=", 1) for line in shown.splitlines())


async def test_unit_is_valid_and_starts_with_the_machine(room: Room) -> None:
    assert await room.run("systemd-analyze", "verify", PATH) == ""

    await room.run("systemctl", "enable", "trio-jobs")

    wanted = await room.run("systemctl", "show", "multi-user.target", "--property=Wants")
    assert "trio-jobs.service" in wanted


@pytest.mark.parametrize("kill_mode", ["mixed", "control-group"])
async def test_stop_waits_for_the_jobs(room: Room, tmp_path: Path, kill_mode: str) -> None:
    await room.write(f"{PATH}.d/override.conf", f"[Service]\nKillMode={kill_mode}\n")

    async with started(room, tmp_path) as deployed:
        await deployed.stop_with_jobs("systemctl", "stop", "trio-jobs")

    assert await state(room) == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainStatus": "0",
        "NRestarts": "0",
    }


async def test_server_that_has_died_is_started_again(room: Room, tmp_path: Path) -> None:
    async with started(room, tmp_path) as deployed:
        await room.run("systemctl", "kill", "--signal=KILL", "trio-jobs")

        await deployed.log.wait_for_lines(2, "Running on http")
        assert await deployed.probe() == ("200", "200")


@pytest.mark.parametrize(
    ("override", "restarts", "last"),
    [
        ("", "5", "Start request repeated too quickly"),
        ("RestartPreventExitStatus=2", "0", "Failed with result"),
    ],
)
async def test_mistake_in_the_configuration_fails_again(
    room: Room, tmp_path: Path, override: str, restarts: str, last: str
) -> None:
    await room.write(f"{PATH}.d/override.conf", f"[Service]\n{override}\n")
    await room.write("/opt/shop/config.toml", "[pool]\nwokers = 3\n")

    follow = room.inside("sh", "-c", f"exec {' '.join(JOURNAL)} >&2")
    async with started_command(tmp_path, command=follow) as journal:
        await room.run("systemctl", "start", "trio-jobs")
        await journal.wait_for_line(last)

    assert await state(room) == {
        "ActiveState": "failed",
        "Result": "exit-code",
        "ExecMainStatus": "2",
        "NRestarts": restarts,
    }
