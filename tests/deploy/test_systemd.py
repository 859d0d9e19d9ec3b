"""The unit of the page about deployment, on a machine that systemd has booted."""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.command import started_command
from tests.deploy.deployed import SHOP, WAIT, Deployed, block_named, follow_log
from tests.deploy.room import Room, need_room, open_room
from tests.docs.blocks import DOCS, blocks_of
from tests.docs.machine import need

NO_JOB = "01a210e0-0000-7000-8000-000000000001"
PATH = "/etc/systemd/system/trio-jobs.service"
UNIT = block_named(PATH)
SYSTEMD = "/lib/systemd/systemd"
JOURNAL = ("journalctl", "--unit=trio-jobs", "--output=cat", "--follow", "--lines=all")

# Python, and its library, may be in somebody's home, where the unit does not look.
MACHINE = f"""
rm -rf {PATH} {PATH}.d
mkdir /opt/python
mount --bind {sys.base_prefix} /opt/python
echo /opt/python/lib >/etc/ld.so.conf.d/00-python.conf
ldconfig
"""
# The project's folder, as its reader would have made it.
INSTALL = f"""
cp -r {SHOP}/. /opt/shop-1
ln -s shop-1 /opt/shop
cd /opt/shop-1
python3 -m venv .venv
.venv/bin/pip install --find-links wheels .
.venv/bin/trio-jobs --check --config config.toml
"""
NGINX = DOCS / "how-to/nginx.md"
NGINX_AROUND = """
user www-data;
events {}
http { include conf.d/jobs.conf; }
"""
NAMES = "[Service]\nEnvironment=TRIO_JOBS_HTTP_ALLOWED_HOSTS=jobs.example.com\n"
CERTIFICATE = """
cd /etc/ssl
mkdir -p certs private
openssl req -x509 -nodes -days 1 -subj /CN=jobs.example.com -newkey ec \\
    -pkeyopt ec_paramgen_curve:prime256v1 \\
    -keyout private/jobs.example.com.key -out certs/jobs.example.com.pem
"""
# Whichever side comes first makes the pipe that tells that systemd starts units.
BOOTED = "mkfifo /booted 2>/dev/null; echo >/booted"
WAIT_BOOTED = "mkfifo /booted 2>/dev/null; cat /booted"
# Of the machine's own units only the journal starts.
BOOT = f"""
cd /etc/systemd/system
find . /lib/systemd/system -path '*.wants/*' ! -name 'systemd-journald*' -delete
printf '[Service]\\nExecStart=/bin/sh -c "{BOOTED}"\\n' >booted.service
mkdir -p multi-user.target.wants
ln -s ../booted.service multi-user.target.wants
exec env container=room {SYSTEMD} --unit=multi-user.target
"""


@pytest.fixture(scope="session", autouse=True)  # before what needs it
def systemd_is_there() -> None:
    need(SYSTEMD, "systemctl", "systemd-analyze", "journalctl")
    need_room()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Path:
    """The project's folder as an archive: every machine gets a copy of the one installation."""
    folder = tmp_path_factory.mktemp("installed")
    archive = folder / "shop.tar"

    async def install(room: Room) -> None:
        await room.write("/opt/shop-1/pyproject.toml", block_named("pyproject.toml").text)
        await run_script(room, MACHINE + INSTALL, wheels)

    with open_room(folder, "sleep", "infinity") as room:
        trio.run(install, room)
        subprocess.run(
            ["tar", "-C", room.path("/opt"), "-cf", archive, "shop-1", "shop"], check=True
        )
    return archive


@pytest.fixture
async def room(tmp_path: Path, installed: Path) -> AsyncIterator[Room]:
    """A machine with the project and the unit."""
    with open_room(tmp_path, "bash", "-euc", BOOT) as room:
        await room.run("sh", "-c", WAIT_BOOTED)
        await room.run("bash", "-euc", MACHINE)
        await room.run("tar", "-C", "/opt", "-xf", str(installed))
        await room.write(PATH, UNIT.text)
        yield room


async def run_script(room: Room, script: str, wheels: Path, *arguments: str) -> None:
    """Run a script of its reader's; the wheels take the place of an index of packages."""
    await room.run(
        *("env", "PATH=/opt/python/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        # What `trio-jobs --check` imports is compiled then.
        *("PIP_NO_INDEX=1", f"PIP_FIND_LINKS={wheels}", "PIP_NO_COMPILE=1"),
        *("bash", "-euc", script, "-", *arguments),
    )


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


async def test_unit_exposes_little(room: Room) -> None:
    text = await room.run("systemd-analyze", "security", "--offline=true", "--no-pager", PATH)

    [exposure, word] = re.findall(r"Overall exposure level for \S+: ([\d.]+) (\w+)", text)[0]
    assert word == "OK"
    assert float(exposure) < 2.0


async def test_start_returns_when_connections_are_accepted(room: Room) -> None:
    shop = await room.run("cat", "/opt/shop/shop.py")
    await room.write("/opt/shop-1/shop.py", f"import time\ntime.sleep(2)\n{shop}")

    await room.run("systemctl", "start", "trio-jobs")

    assert await room.run("curl", "-sS", "localhost:8080/health") == '{"status":"ok"}'


async def test_handlers_can_do_what_handlers_do(room: Room, tmp_path: Path) -> None:
    async with started(room, tmp_path) as deployed:
        for job_type in ("threaded", "separate"):
            job = await deployed.run_job(job_type, 8080)
            assert job.get("result") == "kept", job
        job = await deployed.run_job("write_beside_the_code")
        assert job["error"]["message"].startswith("[Errno 30] Read-only file system"), job

    kept = await room.run("sh", "-c", "cat /var/lib/trio-jobs/kept-*")
    assert kept == "keptkept"


async def test_reload_reads_files_again_and_jobs_go_on(room: Room, tmp_path: Path) -> None:
    async with started(room, tmp_path) as deployed:
        await room.run("mkfifo", deployed.gate)
        held = await deployed.submit("hold")
        await deployed.log.wait_for_line("job_started")
        await room.run("systemctl", "reload", "trio-jobs")
        await deployed.log.wait_for_line('"reloaded"')
        assert await deployed.probe() == ("200", "200")
        await room.run("sh", "-c", f"echo open >{deployed.gate}")
        job = json.loads(await deployed.curl(f"/jobs/{held}", "-H", WAIT))

    assert job["outcome"] == "succeeded"
    assert (await state(room))["NRestarts"] == "0"


async def test_only_the_service_reads_its_tokens_also_at_a_reload(
    room: Room, tmp_path: Path
) -> None:
    page = (DOCS / "how-to/deploy.md").read_text()
    [group, install] = re.findall(r"`((?:groupadd|install) .*?)`", page)
    conf = block_named(f"{PATH}.d/tokens.conf")
    await room.write(f"{PATH}.d/tokens.conf", conf.text)
    await room.write("/root/tokens", "submit first shop\n")
    put = f"cd /root; PATH=/usr/sbin:/usr/bin:/sbin:/bin; {install}"
    await room.run("sh", "-euc", f"PATH=/usr/sbin:/usr/bin:/sbin:/bin; {group}; {put}")

    async def status(token: str) -> str:
        return await deployed.curl(
            f"/jobs/{NO_JOB}",
            "-H",
            f"Authorization: Bearer {token}",
            "-w",
            "%{http_code}",
            "-o",
            "/dev/null",
        )

    async with started(room, tmp_path) as deployed:
        before = [await status("first"), await status("second")]
        await room.write("/root/tokens", "read second\n")
        await room.run("sh", "-euc", put)
        await room.run("systemctl", "reload", "trio-jobs")
        await deployed.log.wait_for_line('"reloaded"')
        after = [await status("first"), await status("second")]
        [shown] = deployed.log.lines_with('"reloaded"')

    assert before == ["404", "401"]
    assert after == ["401", "404"]
    assert json.loads(shown)["what"] == "tokens"
    others = await room.run(
        "sh", "-c", "setpriv --reuid=65534 --clear-groups cat /etc/jobs-tokens 2>&1 || true"
    )
    assert "Permission denied" in others


async def test_stop_has_the_time_that_the_server_asks_for(room: Room, tmp_path: Path) -> None:
    await room.write(f"{PATH}.d/override.conf", "[Service]\nTimeoutStopSec=1\n")

    async with started(room, tmp_path) as deployed:
        await deployed.stop_with_jobs("systemctl", "stop", "trio-jobs")

    assert (await state(room))["Result"] == "success"


async def test_stop_leaves_unfinished_jobs_in_the_folder_of_the_service(
    room: Room, tmp_path: Path
) -> None:
    [setting] = re.findall(r"`(leftovers = .*?)`", (DOCS / "how-to/deploy.md").read_text())
    config = await room.run("cat", "/opt/shop/config.toml")
    config = config.replace("[pool]", f"[pool]\ngrace_period = 0.5\n{setting}")
    await room.write("/opt/shop-1/config.toml", config)

    async with started(room, tmp_path) as deployed:
        await room.run("mkfifo", deployed.gate)
        await deployed.submit("hold")
        await deployed.log.wait_for_line("job_started")
        await deployed.submit("email")
        await room.run("systemctl", "stop", "trio-jobs")

    assert (await state(room))["ExecMainStatus"] == "1"
    left = await room.run("sh", "-c", "cat /var/lib/trio-jobs/leftovers*.jsonl")
    assert sorted(json.loads(line)["type"] for line in left.splitlines()) == ["email", "hold"]


async def test_jobs_in_the_folder_of_the_service_survive_a_kill(room: Room, tmp_path: Path) -> None:
    [setting] = re.findall(r"`(path = .*?)`", (DOCS / "how-to/deploy.md").read_text())
    config = await room.run("cat", "/opt/shop/config.toml")
    await room.write("/opt/shop-1/config.toml", f"{config}\n[store]\n{setting}\n")

    async with started(room, tmp_path) as deployed:
        await room.run("mkfifo", deployed.gate)
        held = await deployed.submit("hold")
        body = json.dumps({"type": "email", "payload": 1, "delay": 3})
        delayed = json.loads(await deployed.curl("/jobs", "-d", body))["id"]
        await deployed.log.wait_for_line("job_started")
        await room.run("systemctl", "kill", "--signal=KILL", "trio-jobs")
        await deployed.log.wait_for_lines(2, "Running on http")
        await room.run("sh", "-c", f"echo open >{deployed.gate}")
        jobs = [
            json.loads(await deployed.curl(f"/jobs/{job_id}", "-H", WAIT))
            for job_id in (held, delayed)
        ]

    assert [job["outcome"] for job in jobs] == ["succeeded", "succeeded"]
    assert [job.get("interruptions", 0) for job in jobs] == [1, 0]
    mode = await room.run("stat", "--format=%a", "/var/lib/trio-jobs/jobs.db")
    assert mode == "600\n"


async def test_upgrade_is_built_beside_the_running_version(
    room: Room, tmp_path: Path, wheels: Path
) -> None:
    shop = await room.run("cat", "/opt/shop/shop.py")
    files = ("cp", "/opt/shop-1/pyproject.toml", "/opt/shop-1/config.toml", "/opt/shop-2")
    build, restart, rest = block_named("upgrade.sh").text.partition("systemctl restart")

    async with started(room, tmp_path) as deployed:
        await room.write("/opt/shop-2/shop.py", shop.replace("VERSION = 1", "VERSION = 2"))
        await room.run(*files)
        # The first child of the running server starts after the switch.
        await run_script(room, build, wheels, "2")
        assert (await deployed.run_job("version"))["result"] == 1

        await run_script(room, restart + rest, wheels)
        assert (await deployed.run_job("version"))["result"] == 2

    assert (await state(room))["NRestarts"] == "0"


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


async def test_nginx_reaches_the_server_by_its_socket(room: Room, tmp_path: Path) -> None:
    need("nginx", "openssl")
    [socket] = [block for block in blocks_of(NGINX) if block.kind == "ini"]
    [proxy] = [block.text for block in blocks_of(NGINX) if block.kind == "nginx"]
    [server] = re.findall(r"`(server unix:.*;)`", NGINX.read_text())
    assert "server 127.0.0.1:8080;" in proxy
    proxy = proxy.replace("server 127.0.0.1:8080;", server).replace("listen 443", "listen 8443")
    assert socket.name is not None
    await room.write(socket.name, socket.text)
    await room.write("/etc/nginx/nginx.conf", NGINX_AROUND)
    await room.write("/etc/nginx/conf.d/jobs.conf", proxy)
    await room.run("bash", "-euc", CERTIFICATE)
    await room.write(f"{PATH}.d/names.conf", NAMES)

    await room.run("systemctl", "start", "trio-jobs")
    # As a daemon it would hold on to the pipe that its output is read from.
    await room.run("sh", "-c", "nginx >/var/log/started 2>&1 || cat /var/log/started")

    place = "https://jobs.example.com:8443"
    own = ("-H", f"Origin: {place}", "-d", '{"type": "email", "payload": 1}', "-H", WAIT)
    resolve = ("--resolve", "jobs.example.com:8443:127.0.0.1")
    answer = await room.run("curl", "-sSk", f"{place}/jobs", *resolve, *own)
    assert json.loads(answer)["result"] == 1
    mode = await room.run("stat", "--format=%a %G", "/run/trio-jobs/jobs.sock")
    assert mode == "660 www-data\n"


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
    # A start takes long on a busy machine: five of them count, in whatever time.
    limit = "[Unit]\nStartLimitIntervalSec=300\n"
    await room.write(f"{PATH}.d/override.conf", f"{limit}[Service]\n{override}\n")
    await room.write("/opt/shop-1/config.toml", "[pool]\nwokers = 3\n")

    follow = room.inside("sh", "-c", f"exec {' '.join(JOURNAL)} >&2")
    async with started_command(tmp_path, command=follow) as journal:
        await room.run("systemctl", "start", "--no-block", "trio-jobs")
        await journal.wait_for_line(last)

    assert await state(room) == {
        "ActiveState": "failed",
        "Result": "exit-code",
        "ExecMainStatus": "2",
        "NRestarts": restarts,
    }
