"""The peers' virtual environments: ``python -m bench.peers install`` makes them."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.children import ROOT

_FOLDER = ROOT / "bench" / ".venvs"

# What FastAPI's documentation tells to install: with uvicorn, uvloop and httptools.
_WEB = "fastapi[standard]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A queue to compare with.

    Attributes:
        name: As its users know it.
        module: Its `*_app` module.
        requirements: What is installed, beside FastAPI.
        worker: The command of its worker, in its environment's `bin`.
        shown: The packages whose versions are told.
        needs_redis: Whether it keeps its jobs there.
    """

    name: str
    module: str
    requirements: tuple[str, ...]
    worker: tuple[str, ...]
    shown: tuple[str, ...]
    needs_redis: bool = True

    @property
    def folder(self) -> Path:
        """Its virtual environment."""
        return _FOLDER / self.module.rpartition(".")[2]

    @property
    def installed(self) -> bool:
        """Whether its environment is there, complete."""
        return (self.folder / "installed").exists()

    def program(self, name: str) -> str:
        """A command of its environment."""
        return str(self.folder / "bin" / name)

    def install(self) -> None:
        """Make its environment.

        Raises:
            subprocess.CalledProcessError: It cannot be installed.
        """
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)  # noqa: S603
        pip = [self.program("python"), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *self.requirements, _WEB], check=True)  # noqa: S603
        (self.folder / "installed").touch()

    def versions(self) -> str:
        """What is installed there, for the page."""
        program = (
            "import sys; from importlib.metadata import version as v; "
            "print(', '.join(f'{p} {v(p)}' for p in sys.argv[1:]))"
        )
        command = [self.program("python"), "-c", program, *self.shown, "fastapi", "uvicorn"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        return done.stdout.strip()


_APPS = "bench.peers."

QUEUES = (
    Peer(
        name="SAQ",
        module=_APPS + "saq_app",
        requirements=("saq[redis]",),
        worker=("saq", _APPS + "saq_app.settings"),
        shown=("saq", "redis"),
    ),
    Peer(
        name="arq",
        module=_APPS + "arq_app",
        requirements=("arq",),
        worker=("arq", _APPS + "arq_app.WorkerSettings"),
        shown=("arq", "redis"),
    ),
    Peer(
        name="taskiq",
        module=_APPS + "taskiq_app",
        requirements=("taskiq", "taskiq-redis"),
        worker=(
            *("taskiq", "worker", "--workers", "1", "--max-async-tasks", "10"),
            _APPS + "taskiq_app:broker",
        ),
        shown=("taskiq", "taskiq-redis", "redis"),
    ),
    Peer(
        name="streaQ",
        module=_APPS + "streaq_app",
        requirements=("streaq",),
        worker=("streaq", "run", _APPS + "streaq_app:worker"),
        shown=("streaq", "coredis"),
    ),
    Peer(
        name="Huey (SQLite)",
        module=_APPS + "huey_app",
        requirements=("huey",),
        worker=("huey_consumer", _APPS + "huey_app.huey", "-k", "thread", "-w", "10"),
        shown=("huey",),
        needs_redis=False,
    ),
    Peer(
        name="Celery (threads)",
        module=_APPS + "celery_app",
        requirements=("celery[redis]",),
        worker=("celery", "-A", _APPS + "celery_app", "worker", "-P", "threads", "-c", "10"),
        shown=("celery", "kombu", "redis"),
    ),
    Peer(
        name="Dramatiq (threads)",
        module=_APPS + "dramatiq_app",
        requirements=("dramatiq[redis]",),
        worker=("dramatiq", _APPS + "dramatiq_app", "--processes", "1", "--threads", "10"),
        shown=("dramatiq", "redis"),
    ),
)

BACKGROUND_TASKS = Peer(
    name="FastAPI BackgroundTasks",
    module=_APPS + "background_tasks_app",
    requirements=(),
    worker=(),
    shown=(),
)


def install() -> bool:
    """Make every environment that is not there; whether all are there now."""
    for peer in (*QUEUES, BACKGROUND_TASKS):
        if peer.installed:
            print(f"{peer.name}: there already")
            continue
        try:
            peer.install()
            print(f"{peer.name}: {peer.versions()}")
        except subprocess.CalledProcessError as error:
            print(f"{peer.name}: cannot be installed ({error})")
    return all(peer.installed for peer in (*QUEUES, BACKGROUND_TASKS))
