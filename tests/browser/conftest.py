"""Fixtures: the browser, its pages, and servers."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.browser.support import AXE, Pages, Server, axe_path, killed_at_the_end
from tests.docs.machine import pass_over

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The first that is there: Chromium without a window of its own takes a third of the other's time.
CHROMIUM = ("chromium-headless-shell", "chromium")

# Root can use no sandbox; and the browser asks nothing of the network for itself.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Start(Protocol):
    """Starts a server, in a folder of the test's own; see `Server`."""

    def __call__(self, folder: str = "server", **options: Any) -> Server:  # noqa: ANN401
        """Start it; it is killed when the test ends."""
        ...


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium, which the machine has; playwright drives it."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pass_over("needs playwright (pip install -e '.[browser]')")
    paths = [path for name in CHROMIUM if (path := shutil.which(name))]
    if not paths:
        pass_over(f"needs {' or '.join(CHROMIUM)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=paths[0],
            args=FLAGS,
            env={"HOME": "/tmp"},  # noqa: S108
        )
        yield browser
        browser.close()


@pytest.fixture
def pages(browser: "Browser") -> Iterator[Pages]:
    """Opens pages, and fails the test if the browser has complained."""
    pages = Pages(browser)
    yield pages
    pages.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers."""
    with killed_at_the_end() as keep:

        def start(folder: str = "server", **options: Any) -> Server:  # noqa: ANN401
            return keep(Server(tmp_path / folder, **options))

        yield start


@pytest.fixture(scope="session")
def axe() -> Path:
    """The file of axe-core."""
    path = axe_path()
    if path is None or not path.exists():
        pass_over(f"needs axe-core: {AXE} names the folder of `npm install --prefix`")
    return path
