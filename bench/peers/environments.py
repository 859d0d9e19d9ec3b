"""The peers' virtual environments, and the Redis that some of them need."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.children import ROOT, Child, ChildError, Server

_FOLDER = ROOT / "bench" / ".venvs"

# Longer than an application takes to start.
_START_SECONDS = 60.0

# The installation that FastAPI's documentation recommends: with uvicorn, uvloop and httptools.
_WEB = "fastapi[standard]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A queue to compare with.

    Attributes:
        name: Its name on the page.
        module: Its `*_app` module.
        packages: Its packages.
        worker: The command of its worker, in its environment's `bin`; none for BackgroundTasks.
        needs_redis: Whether Redis keeps its jobs.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    worker: tuple[str, ...] = ()
    needs_redis: bool = False

    @property
    def folder(self) -> Path:
        """Its virtual environment."""
        return _FOLDER / self.module.rpartition(".")[2]

    @property
    def installed(self) -> bool:
        """Whether its environment is complete."""
        return (self.folder / "installed").exists()

    def program(self, name: str) -> str:
        """The path of a command in its environment."""
        return str(self.folder / "bin" / name)

    def install(self, *, web: Path) -> None:
        """Make its environment.

        Args:
            web: An environment with FastAPI, to begin with a copy of it where FastAPI is needed: to
                install it again would take longer.

        Raises:
            subprocess.CalledProcessError: A package cannot be installed.
        """
        if _WEB in self.packages and (web / "installed").exists():
            unfinished = shutil.ignore_patterns("installed")
            shutil.copytree(web, self.folder, symlinks=True, ignore=unfinished, dirs_exist_ok=True)
        else:
            venv = [sys.executable, "-m", "venv", "--without-pip", str(self.folder)]
            subprocess.run(venv, check=True)  # noqa: S603
        # Most modules are never imported: the others are compiled then.
        pip = [sys.executable, "-m", "pip", "--python", str(self.folder), "install", "--no-compile"]
        subprocess.run([*pip, "--quiet", *self.packages], check=True)  # noqa: S603
        (self.folder / "installed").touch()

    def versions(self) -> str:
        """The versions of its packages, for the page."""
        program = (
            "import sys; from importlib.metadata import version as v; "
            "print(', '.join(f'{p} {v(p)}' for p in sys.argv[1:]))"
        )
        more = ("uvicorn",) if _WEB in self.packages else ()
        names = [name.partition("[")[0] for name in (*self.packages, *more)]
        command = [self.program("python"), "-c", program, *names]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        return done.stdout.strip()


NOT_INSTALLED = "not installed (python -m bench.peers install)"

_APPS = "bench.peers."

BACKGROUND_TASKS = Peer(
    name="FastAPI BackgroundTasks",
    module=_APPS + "background_tasks_app",
    packages=(_WEB,),
)

HUEY = Peer(
    name="Huey (SQLite)",
    module=_APPS + "huey_app",
    packages=("huey", _WEB),
    worker=("huey_consumer", _APPS + "huey_app.huey", "-k", "thread", "-w", "10"),
)

PEERS = (
    BACKGROUND_TASKS,
    Peer(
        name="taskiq",
        module=_APPS + "taskiq_app",
        packages=("taskiq", "taskiq-redis", _WEB),
        worker=(
            *("taskiq", "worker", "--workers", "1", "--max-async-tasks", "10"),
            _APPS + "taskiq_app:broker",
        ),
        needs_redis=True,
    ),
    Peer(
        name="Celery (threads)",
        module=_APPS + "celery_app",
        packages=("celery[redis]", _WEB),
        worker=("celery", "-A", _APPS + "celery_app", "worker", "-P", "threads", "-c", "10"),
        needs_redis=True,
    ),
    HUEY,
)

# Each runs its jobs and submits them in one process; none has a web application.
POSTGRES_PEERS = (
    Peer(name="PGQueuer", module=_APPS + "pgqueuer_app", packages=("pgqueuer[asyncpg]",)),
    Peer(
        name="Procrastinate",
        module=_APPS + "procrastinate_app",
        packages=("procrastinate", "psycopg[binary,pool]"),
    ),
)


def install() -> bool:
    """Make every missing environment, and return whether all are complete."""
    every = (*PEERS, *POSTGRES_PEERS)
    for peer in every:
        if not peer.installed:
            try:
                peer.install(web=BACKGROUND_TASKS.folder)
            except subprocess.CalledProcessError as error:
                print(f"{peer.name}: cannot be installed ({error})")
                continue
        print(f"{peer.name}: {peer.versions()}")
    return all(peer.installed for peer in every)


def find_redis() -> str | None:
    """The path of `redis-server`, if it is installed."""
    return shutil.which("redis-server")


@contextmanager
def running_redis(program: str) -> Iterator[int]:
    """Run a Redis on a free port of the loopback interface, and yield the port.

    Its settings are the defaults, but for snapshots: they are off, so that the
    peers' figures contain no disk.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="trio-jobs-bench-") as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        with Child([*command, "--dir", folder]) as child:
            child.wait_for("Ready to accept connections")
            yield port


@contextmanager
def running_web(peer: Peer, module: str, environment: Mapping[str, str]) -> Iterator[Server]:
    """Run an application by uvicorn in the peer's environment, and yield it once it listens.

    Raises:
        ChildError: It does not listen.
    """
    port = free_port()
    # In a copied environment the script of uvicorn is that of the other.
    command = [peer.program("python"), "-m", "uvicorn", f"{module}:app", "--port", str(port)]
    command += ["--timeout-keep-alive", "600"]  # connections are idle during other turns
    with Child(command, environment={"PYTHONPATH": str(ROOT), **environment}) as child:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                time.sleep(0.05)
            else:
                yield Server(pid=child.pid, port=port)
                return
        raise ChildError(f"{' '.join(command)} does not listen")


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
