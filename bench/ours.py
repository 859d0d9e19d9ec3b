"""The command `trio-jobs` itself, as an operator starts it, with the empty handler."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.children import Child, module_path

COMMAND = [sys.executable, "-m", "trio_jobs"]

_HANDLERS = '[handlers]\ndefault = "bench.workload:empty"\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server."""

    pid: int
    port: int
    child: Child


@contextmanager
def running(
    *,
    workers: int = 10,
    buffer_size: int = 1000,
    http: Mapping[str, object] | None = None,
    handlers: str = _HANDLERS,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """The server, while the block runs.

    Args:
        workers: As in its configuration.
        buffer_size: As in its configuration.
        http: More settings of `[http]`; what is not given has its default.
        handlers: The table of handlers.
        environment: More environment variables.
    """
    with (
        configuration(
            workers=workers, buffer_size=buffer_size, http=http, handlers=handlers
        ) as config,
        start(config, environment=environment) as child,
    ):
        yield Server(pid=child.pid, port=wait_until_running(child), child=child)


@contextmanager
def configuration(
    *,
    workers: int = 10,
    buffer_size: int = 1000,
    http: Mapping[str, object] | None = None,
    handlers: str = _HANDLERS,
) -> Iterator[Path]:
    """A configuration file, while the block runs."""
    settings = {
        "bind": '"127.0.0.1:0"',
        "keep_alive_timeout": 600,  # connections idle while others have their turn
        **(http or {}),
    }
    text = (
        f"[pool]\nworkers = {workers}\nbuffer_size = {buffer_size}\n[http]\n"
        + "".join(f"{name} = {value}\n" for name, value in settings.items())
        + handlers
    )
    with tempfile.TemporaryDirectory(prefix="trio-jobs-bench-") as folder:
        config = Path(folder, "config.toml")
        config.write_text(text, encoding="utf-8")
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
