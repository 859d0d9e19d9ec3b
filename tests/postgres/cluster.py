"""A PostgreSQL server of a test run's own: on a socket in a folder, for nobody else."""

import os
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from tests.docs.machine import pass_over

# Debian has the server's programs beside each other, by version, and not on the PATH.
DEBIAN = Path("/usr/lib/postgresql")

# Where files are in memory, and how many bytes must be free there for a server's.
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
ROOM = 2**30

# What a crash would need; and less of it is kept. A server that is stopped `immediate` leaves its
# shared memory behind, unless it is a file in its folder.
UNSAFE = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "dynamic_shared_memory_type": "mmap",
}

Mode = Literal["smart", "fast", "immediate"]

# Reads until the test run closes its end, or has ended, however that was; then leaves nothing.
# In the background: tests look at the children of their process.
REMOVE = """
exec 3<&0
{ cat <&3; "$1/pg_ctl" stop --wait --mode=immediate --pgdata="$2/data"; rm -r "$2"; } &
"""


def need_programs() -> Path:
    """The folder of the server's programs; without it the test is skipped."""
    found = [Path(path).resolve().parent for path in [shutil.which("postgres")] if path]
    debian = [path.parent for path in DEBIAN.glob("*/bin/initdb")]
    found += sorted(debian, key=lambda path: float(path.parts[4]), reverse=True)
    whole = [folder for folder in found if (folder / "initdb").exists()]
    if not whole:
        pass_over("needs a PostgreSQL server")
    return whole[0]


def roomy_memory() -> Path | None:
    """The folder whose files are in memory, if there is one and it has room."""
    is_roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    return MEMORY if is_roomy else None


@contextmanager
def ended(processes: Iterable[int]) -> Iterator[None]:
    """A block that ends processes; after it they have ended."""
    running: list[int] = []
    for process in processes:
        with suppress(ProcessLookupError):
            running.append(os.pidfd_open(process))
    try:
        yield
        for each in running:
            select.select([each], [], [])
    finally:
        for each in running:
            os.close(each)


class Cluster:
    """A server with its data, in a folder that goes with it; both go with the test run.

    Args:
        programs: The folder of the server's programs.
        safe: Whether it survives a crash, as a real one; else it is faster, and in memory if there
            is room.
        settings: Settings of the server.
    """

    def __init__(self, programs: Path, *, safe: bool, **settings: str | int) -> None:
        self._make_folder(programs, parent=None if safe else roomy_memory())
        self._run(
            "initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C",
            "--no-sync", "--no-instructions", f"--pgdata={self._data}",
        )  # fmt: skip
        every: dict[str, str | int] = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": 100,
            "max_prepared_transactions": 2,
            "shared_buffers": "32MB",
            "timezone": "UTC",
            **({} if safe else UNSAFE),
            **settings,
        }
        self._configure(every)

    def _make_folder(self, programs: Path, parent: Path | None) -> None:
        # A socket's path may have 107 bytes: pytest's own folders are too deep.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
        self._programs = programs
        self._data = self.folder / "data"
        # The server refuses to run as root.
        self.user = "postgres" if os.getuid() == 0 else None
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self.folder.chmod(0o755)
        self._remover = subprocess.Popen(
            ["sh", "-c", REMOVE, "sh", programs, self.folder],
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the test run
        )
        self._remover.wait()

    def _configure(self, settings: Mapping[str, str | int]) -> None:
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def url(self, database: str = "postgres", *, user: str = "postgres") -> str:
        """The URL of a database, for a user with every right."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    @property
    def log(self) -> str:
        """What the server has logged."""
        return (self.folder / "log").read_text()

    def start(self) -> None:
        """Start the server; returns once it takes connections."""
        self._run("pg_ctl", "start", "--wait", f"--pgdata={self._data}", f"--log={self.folder}/log")

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server: ``immediate`` as in a crash, of which its programs still know."""
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}", f"--pgdata={self._data}")

    def kill(self) -> None:
        """End every process of the server with SIGKILL; returns once none is left."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)  # it starts no more
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in [*map(int, children), pid]:
            with ended([each]), suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        # Until somebody has asked for its exit status, a server seems to run on.
        (self._data / "postmaster.pid").unlink()
        (self.folder / ".s.PGSQL.5432.lock").unlink()

    def remove(self) -> None:
        """Stop the server, if it runs, and delete its data."""
        self._remover.communicate()

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def create(self, database: str, *, template: str) -> None:
        """Make a database as a copy of another one."""
        self.execute(f'create database "{database}" template "{template}"')

    def drop(self, database: str) -> None:
        """Drop a database, and cut its connections."""
        self.execute(f'drop database "{database}" with (force)')

    def execute(self, sql: str) -> None:
        """Execute a statement for the whole server."""
        import psycopg  # most runs need none

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
        )


class Standby(Cluster):
    """A standby, which has what a server has, and takes its place when it is promoted.

    Each commit of the other server waits for it, once it has started.

    Args:
        primary: The other server, which runs.
    """

    def __init__(self, primary: Cluster) -> None:
        self._make_folder(primary._programs, parent=None)
        self._run(
            "pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
            f"--dbname={primary.url()}", f"--pgdata={self._data}",
        )  # fmt: skip
        self._configure({"unix_socket_directories": str(self.folder)})
        self.start()
        primary.execute("alter system set synchronous_standby_names = '*'")
        primary.execute("select pg_reload_conf()")

    def promote(self) -> None:
        """Take writes from now on; returns once it does."""
        self._run("pg_ctl", "promote", "--wait", f"--pgdata={self._data}")
