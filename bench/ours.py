"""The command `trio-jobs`, as an operator starts it, with a handler that does nothing."""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.children import Child, Server, module_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The command's configuration; other settings have their defaults.

    ``counts``: whether the server counts its jobs, and has events and the page.
    """

    workers: int = 10
    buffer_size: int = 1_000
    grace_period: float = 25.0
    http: Mapping[str, object] = field(default_factory=dict)
    store: Path | None = None
    counts: bool = False
    handlers: str = '[handlers]\ndefault = "bench.workload:empty"\n'

    def toml(self) -> str:
        """The configuration file."""
        http = {
            "bind": '"127.0.0.1:0"',
            "keep_alive_timeout": 600,  # connections are idle during other turns
            "ui": json.dumps(self.counts),
            **self.http,
        }
        lines = [
            "[pool]",
            f"workers = {self.workers}",
            f"buffer_size = {self.buffer_size}",
            f"grace_period = {self.grace_period}",
            "[http]",
            *(f"{name} = {value}" for name, value in http.items()),
            *([] if self.store is None else ["[store]", f"path = {json.dumps(str(self.store))}"]),
            "[metrics]",
            "enabled = false",
            self.handlers,
        ]
        return "\n".join(lines)


@contextmanager
def running(
    settings: Settings | None = None, *, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run the server for the length of the block."""
    command = [sys.executable, "-m", "trio_jobs", "--config"]
    with tempfile.TemporaryDirectory(prefix="trio-jobs-bench-") as folder:
        config = Path(folder, "config.toml")
        config.write_text((settings or Settings()).toml(), encoding="utf-8")
        variables = {"PYTHONPATH": module_path(), **(environment or {})}
        with Child([*command, str(config)], environment=variables) as child:
            port = int(child.wait_for(r"Running on http://127\.0\.0\.1:(\d+)")[1])
            yield Server(pid=child.pid, port=port)
