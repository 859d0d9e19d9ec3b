"""What a process has imported by then, and in which thread."""

import subprocess
import sys
from pathlib import Path

import pytest

# What only a store in a file needs.
FILE_MODULES = (
    "sqlite3 trio_jobs.stores.sqlite trio_jobs.stores.durable_store "
    "trio_jobs.pool.durable_admission trio_jobs.pool.suspects trio_jobs.store_in_file"
)

OPEN_AND_USE = """
import trio, trio_jobs
async def main():
    async with trio_jobs.open_jobs({"a": lambda payload: None}, path=PATH) as jobs:
        submitted = jobs.submit("a")
        job = submitted if PATH is None else await submitted
        await jobs.result(job.id)
        jobs.asgi()
trio.run(main)
"""

QUEUE = """
from trio_jobs import JobQueue
queue = JobQueue({"a": lambda payload: None})
async def main():
    async with queue.lifespan():
        await queue.wait((await queue.submit("a")).id)
"""


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import trio_jobs.bootstrap", FILE_MODULES),
        ("import trio_jobs.asgi, trio_jobs.testing.asgi_client", FILE_MODULES),
        (f"PATH = None; exec({OPEN_AND_USE!r})", FILE_MODULES),
        ("import trio_jobs.child_process", "trio quart hypercorn asyncio multiprocessing"),
        ("from trio_jobs import Handler, JobContext, JobError", "trio quart hypercorn asyncio"),
        ("from trio_jobs import Retry, Snooze, GiveUp, ProcessDied", "trio trio_jobs.handlers"),
        ("import trio_jobs", "trio_jobs.embed trio msgspec quart logging"),
        ("from trio_jobs import open_jobs", "quart quart_trio hypercorn multiprocessing"),
        (f"import trio; exec({QUEUE!r}); trio.run(main)", "asyncio fastapi quart pydantic"),
        (f"import asyncio; exec({QUEUE!r}); asyncio.run(main())", "fastapi quart pydantic"),
        ("import trio_jobs.asyncio", "quart quart_trio hypercorn fastapi starlette pydantic"),
    ],
)
def test_importing_imports_only_what_is_needed(statement: str, absent: str) -> None:
    assert imported_of(absent, statement) == set()


def test_pool_in_a_file_imports_what_one_in_memory_does_not(tmp_path: Path) -> None:
    statement = f"PATH = {str(tmp_path / 'jobs.db')!r}; exec({OPEN_AND_USE!r})"

    assert imported_of(FILE_MODULES, statement) == set(FILE_MODULES.split())


def imported_of(names: str, statement: str) -> set[str]:
    """Which of these modules a fresh interpreter has imported after a statement."""
    code = f"import sys; {statement}; print(*(set({names.split()!r}) & sys.modules.keys()))"

    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    )

    return set(done.stdout.split())


GROUND_FLOOR = {"trio_jobs", "trio_jobs.json_encoding", "trio_jobs.progress"}


def modules_after(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_client_imports_nothing_of_the_server() -> None:
    modules = modules_after("import trio_jobs.client")

    ours = {name for name in modules if name.partition(".")[0] == "trio_jobs"}
    assert {name for name in ours if not name.startswith("trio_jobs.client")} == GROUND_FLOOR
    assert modules.isdisjoint({"trio", "quart", "quart_trio", "hypercorn", "sqlite3"})


def test_server_imports_nothing_of_the_client_or_of_a_run() -> None:
    modules = modules_after("import trio_jobs.cli, trio_jobs.bootstrap, trio_jobs.http_service")

    assert "trio_jobs.api.app" in modules
    assert modules.isdisjoint({"trio_jobs.client", "trio_jobs.commands.run", "httpx", "anyio"})


@pytest.mark.parametrize("missing", ["httpx", "anyio"])
def test_without_the_extra_the_error_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import trio_jobs.client"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert run.stderr.splitlines()[-1] == (
        "ImportError: trio_jobs.client needs httpx and anyio: pip install 'trio-jobs[client]'"
    )


FIRST_REQUEST = """
import sys, threading
import httpx
from trio_jobs import JobQueue

class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == "trio_jobs.api.app":
            print(threading.current_thread() is threading.main_thread())

async def main():
    queue = JobQueue({"double": lambda number: number * 2})
    client = httpx.AsyncClient(transport=httpx.ASGITransport(queue), base_url="http://localhost")
    async with queue.lifespan(), client:
        sys.meta_path.insert(0, Importing())
        print((await client.get("/health")).status_code)
"""


@pytest.mark.parametrize(
    "run", ["import trio; trio.run(main)", "import asyncio; asyncio.run(main())"]
)
def test_first_request_imports_the_api_beside_the_applications_loop(run: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FIRST_REQUEST + run],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.stdout.split() == ["False", "200"]
