"""Fixtures of tests that start processes."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest
import trio

from tests.support import ProcessPool, load_function
from trio_jobs import Handler


@pytest.fixture
async def processes() -> AsyncIterator[ProcessPool]:
    """A pool of one child process."""
    with trio.fail_after(170):
        async with ProcessPool(1) as processes:
            yield processes


class MakeHandler(Protocol):
    """Makes a module, and a process handler of its function `work`."""

    def __call__(
        self, module: str, source: str, *, timeout: float | None = None, in_child: str = "pass"
    ) -> Handler:
        """The module of this name and source; it does ``in_child`` when a child imports it."""
        ...


@pytest.fixture
def make_handler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeHandler:
    """Makes handlers of modules, which are in `tmp_path`."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(
        module: str, source: str, *, timeout: float | None = None, in_child: str = "pass"
    ) -> Handler:
        only = f"import os\nif os.getpid() != {os.getpid()}:\n    {in_child}\n"
        (tmp_path / f"{module}.py").write_text(f"{only}{source}\n")
        monkeypatch.syspath_prepend(tmp_path)  # forgets earlier searches
        name = f"{module}:work"
        return Handler.of(load_function(name), run="process", timeout=timeout, name=name)

    return make
