"""The command `trio-jobs` itself, as an operator starts it, with the empty handler."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.children import Child, module_path

COMMAND = [sys.executable, "-m", "trio_jobs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command is configured with; what is not named here has its default.

    Attributes:
        http: Settings of `[http]`.
        handlers: The table of handlers.
    """

    workers: int = 10
    buffer_size: int = 1_000
    grace_period: float = 25.0
    http: Mapping[str, object] = field(default_factory=dict)
    handlers: str = '[handlers]\ndefault = "bench.workload:empty"\n'

    def toml(self) -> str:
        """The configuration file."""
        http = {
            "bind": '"127.0.0.1:0"',
            "keep_alive_timeout": 600,  # connections idle while others have their turn
            **self.http,
        }
        lines = [
            "[pool]",
            f"workers = {self.workers}",
            f"buffer_size = {self.buffer_size}",
            f"grace_period = {self.grace_period}",
            "[http]",
            *(f"{name} = {value}" for name, value in http.items()),
            self.handlers,
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server."""

    pid: int
    port: int
    child: Child


@contextmanager
def running(
    settings: Settings | None = None, *, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """The server, while the block runs."""
    with (
        configuration(settings or Settings()) as config,
        start(config, environment=environment) as child,
    ):
        yield Server(pid=child.pid, port=wait_until_running(child), child=child)


@contextmanager
def configuration(settings: Settings) -> Iterator[Path]:
    """A configuration file, while the block runs."""
    with tempfile.TemporaryDirectory(prefix="trio-jobs-bench-") as folder:
        config = Path(folder, "config.toml")
        config.write_text(settings.toml(), encoding="utf-8")
        yield config


def start(config: Path, *, environment: Mapping[str, str] | None = None) -> Child:
    """Start the command; the caller waits until it is running."""
    return Child(
        [*COMMAND, "--config", str(config)],
        environment={"PYTHONPATH": module_path(), **(environment or {})},
    )


def wait_until_running(child: Child) -> int:
    """The port it listens on."""
    return int(child.wait_for(r"Running on http://127\.0\.0\.1:(\d+)")[1])
