"""The real command as a process, and pages of it in Chromium.

    server = start(config=CONFIG)
    page = pages.open(server)
    server.submit("refuse")
    expect(page.locator("#jobs tr")).to_have_count(1)

Tests wait for what the page shows, for answers and for lines of the log, and never for a time.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from tests.command import PATIENCE, environment, ready_python, write_files

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page, Request

# Where axe-core is: `npm install --prefix FOLDER axe-core` puts it into FOLDER/node_modules.
AXE = "AXE_CORE"

# The handlers of these tests, behind those of `tests.work`.
HANDLERS = '''

from trio_jobs import JobContext


class Refused(Exception):
    """What a handler raises."""


async def refuse(payload: object) -> None:
    """Fail, with the payload as the message."""
    raise Refused(payload)


async def log_and_refuse(payload: object) -> None:
    """Log the payload, and fail."""
    log.warning("%s", payload)
    raise Refused


async def import_pages(payload: object, context: JobContext) -> None:
    """Say how far it is, wait until the test opens the gate, and fail."""
    context.progress(243, 400, payload)
    await wait_for_gate()
    raise Refused("the 244th page is torn")
'''

CONFIG = """
[pool]
workers = 4
buffer_size = 100

[handlers]
quick = "work:quick"
refuse = "work:refuse"
at_the_gate = "work:at_the_gate"
import_pages = "work:import_pages"
log_and_refuse = "work:log_and_refuse"
"""


def expect(shown: "Locator | Page") -> Any:  # noqa: ANN401 - as playwright, which need not be there
    """Assert something of the page, or of a part of it, once it holds."""
    from playwright.sync_api import expect as expect_

    expect_.set_options(timeout=PATIENCE * 1000)
    return expect_(shown)


class Server:
    """A started command.

    Attributes:
        url: Where it serves.
        client: A client with this base URL.
        lines: What it has written to standard error so far.

    Args:
        folder: Its folder.
        config: The text of its ``config.toml``.
        bind: Where it listens; port 0 takes a free port.
        variables: Variables of its environment.
        headers: Those of each request of the client.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: str = CONFIG,
        bind: str = "127.0.0.1:0",
        variables: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.lines: list[str] = []
        self._more = Condition()
        self._ended = False
        handlers = Path(__file__).parents[1].joinpath("work.py").read_text() + HANDLERS
        write_files(folder, config=config, handlers=handlers)
        self._process = ready_python().fork(
            (),
            cwd=folder,
            env=environment({"TRIO_JOBS_HTTP_BIND": bind, **(variables or {})}),
            stderr=subprocess.PIPE,
        )
        assert self._process.stderr is not None
        self._log = os.fdopen(self._process.stderr)
        self._reader = Thread(target=self._read)
        self._reader.start()
        try:
            line = self.wait_for_line("Running on http")
        except BaseException:
            self.kill()
            raise
        self.url = line.partition("Running on ")[2].split()[0]
        self.client = httpx.Client(
            base_url=self.url, headers=headers, timeout=PATIENCE, trust_env=False
        )

    @property
    def address(self) -> str:
        """Host and port; another server can be started there once this one has ended."""
        return urlsplit(self.url).netloc

    def wait_for_line(self, *parts: str) -> str:
        """The first line of the log with all of these parts, once there is one."""

        def found() -> str | None:
            return next((line for line in self.lines if all(p in line for p in parts)), None)

        with self._more:
            self._more.wait_for(lambda: found() or self._ended, timeout=PATIENCE)
            line = found()
        log = "\n".join(self.lines)
        assert line is not None, f"no line with {parts!r} in the log:\n{log}"
        return line

    def submit(
        self, job_type: str, payload: object = None, *, wait: bool = False, delay: float = 0
    ) -> str:
        """Submit a job, which must be accepted, and perhaps wait for its end; its id."""
        headers = {"Prefer": f"wait={PATIENCE:.0f}"} if wait else {}
        job = {"type": job_type, "payload": payload, "delay": delay}
        answer = self.client.post("/jobs", json=job, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def get(self, path: str) -> Any:  # noqa: ANN401
        """What the API says at this path."""
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def outcome(self, job_id: str) -> str:
        """What has become of a job that has ended, or is about to."""
        answer = self.client.get(
            f"/jobs/{job_id}", headers={"Prefer": "wait=60"}, timeout=2 * PATIENCE
        )
        return str(answer.json()["outcome"])

    def send(self, signum: signal.Signals) -> None:
        """Send a signal to the process."""
        self._process.send_signal(signum)

    def wait_exit(self) -> int:
        """Its exit status, once it has ended."""
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End it at once; does nothing once it has ended."""
        self._process.kill()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._log.close()
        if hasattr(self, "client"):
            self.client.close()

    def _read(self) -> None:
        for line in self._log:
            with self._more:
                self.lines.append(line.rstrip("\n"))
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()


class Pages:
    """Opens pages, and hears what the browser complains about.

    Attributes:
        complaints: Messages of the console, errors of scripts, and requests that failed. A request
            that the page itself has given up did not fail.
        accepted: Texts; a complaint with one of them is expected by the test.
    """

    def __init__(self, browser: "Browser") -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.complaints: list[str] = []
        self.accepted: list[str] = []

    def open(
        self,
        server: Server,
        address: str = "/ui",
        *,
        base: str | None = None,
        context: "BrowserContext | None" = None,
        width: int = 1280,
        theme: str = "light",
        bypass_csp: bool = False,
    ) -> "Page":
        """Open an address of the server.

        Args:
            server: The server.
            address: Path, and perhaps what follows it.
            base: Scheme, host and port, if not those of the server.
            context: The browser's profile, if not a new one.
            width: Of the window, in pixels; below 700 it is a phone's.
            theme: What the system wishes: light or dark.
            bypass_csp: Whether the page's policy is ignored.
        """
        page = (context or self.context(width=width, theme=theme, bypass_csp=bypass_csp)).new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", self._hear_failure)
        page.goto((base or server.url) + address)
        return page

    def context(
        self,
        *,
        width: int = 1280,
        theme: str = "light",
        bypass_csp: bool = False,
        trusts_all: bool = False,
    ) -> "BrowserContext":
        """A new profile of the browser: its cookies and what it keeps are its own.

        Args:
            width: As for `open`.
            theme: As for `open`.
            bypass_csp: As for `open`.
            trusts_all: Whether it takes any certificate.
        """
        phone = width < 700
        context = self._browser.new_context(
            viewport={"width": width, "height": 844 if phone else 900},
            color_scheme=theme,  # type: ignore[arg-type, unused-ignore]
            is_mobile=phone,
            has_touch=phone,
            bypass_csp=bypass_csp,
            ignore_https_errors=trusts_all,
        )
        self._contexts.append(context)
        return context

    def close(self) -> None:
        """Close all pages; no unexpected complaint may be left.

        Raises:
            AssertionError: The browser has complained.
        """
        for context in self._contexts:
            context.close()
        left = [each for each in self.complaints if not any(text in each for text in self.accepted)]
        assert not left, left

    def _hear_failure(self, request: "Request") -> None:
        if request.failure != "net::ERR_ABORTED":
            self.complaints.append(f"{request.method} {request.url}: {request.failure}")


def axe_violations(page: "Page", source: Path) -> list[str]:
    """What axe-core finds wrong with the page as it is now: WCAG 2.2 A and AA, and good practice.

    The page must have been opened with ``bypass_csp``.
    """
    if not page.evaluate("'axe' in window"):
        page.add_script_tag(path=source)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found: list[dict[str, Any]] = page.evaluate(
        "tags => axe.run(document, {runOnly: tags}).then(result => result.violations)", tags
    )
    return [
        f"{violation['id']}: {node['target']} {node.get('failureSummary')}"
        for violation in found
        for node in violation["nodes"]
    ]


def assert_fine(page: "Page", source: Path) -> None:
    """In neither theme axe-core finds anything, nor does the page scroll sideways.

    The page must have been opened with ``bypass_csp``.
    """
    for theme in ("dark", "light"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type, unused-ignore]
        assert axe_violations(page, source) == [], theme
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@contextmanager
def killed_at_the_end() -> Iterator[Callable[[Server], Server]]:
    """Takes servers, and kills them in the end."""
    servers: list[Server] = []

    def keep(server: Server) -> Server:
        servers.append(server)
        return server

    try:
        yield keep
    finally:
        for server in servers:
            server.kill()


def axe_path() -> Path | None:
    """The file of axe-core, if the environment names its folder."""
    folder = os.environ.get(AXE)
    return Path(folder, "node_modules/axe-core/axe.min.js") if folder else None
