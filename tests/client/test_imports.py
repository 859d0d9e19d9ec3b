"""What the client's package imports."""

import subprocess
import sys

import pytest

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
