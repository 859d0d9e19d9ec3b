"""Files beside the configuration hide no module of their name, and are warned of."""

import importlib.util
import json
import os
import queue
import signal
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.command import MODULE, SCRIPT, run_command, running_command
from trio_jobs.hidden_modules import HiddenModule, find_hidden_modules

CONFIG = """
[handlers]
async = "handlers_of_all_kinds:in_loop"
thread = { call = "handlers_of_all_kinds:plain", run = "thread" }
process = { call = "handlers_of_all_kinds:logged", run = "process" }
failing = { call = "handlers_of_all_kinds:failing", run = "process" }
"""
# Named as nothing else is.
HANDLERS = """
import email.message, logging, queue, sqlite3
async def in_loop(payload): return str(email.message.EmailMessage())
def plain(payload): return [queue.Queue().qsize(), sqlite3.connect(":memory:").total_changes]
def logged(payload):
    logging.getLogger("handler").warning("logged")
    return plain(payload)
def failing(payload): return {}["nothing"]
"""
RESULTS = {"async": "\n", "thread": [0, 0], "process": [0, 0]}
# Each is hidden: its name stands for a module that is not in the folder.
HIDDEN = 'raise ImportError("hidden!")\n'
# As the module of a process's handler does.
USES_LIBRARIES = f"import msgspec, trio\n{HANDLERS}"
# What `trio` and the server itself import.
LIBRARIES = ("attr", "hypercorn", "msgspec", "outcome", "sniffio", "trio")
# What Python itself imports for `-m` before it gets to the package.
STARTING = ("queue", "email", "logging", "selectors", "argparse", "signal", "ssl")


def write_folder(folder: Path, names: Iterable[str], *, handlers: str = HANDLERS) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(CONFIG)
    (folder / "handlers_of_all_kinds.py").write_text(handlers)
    for name in names:
        (folder / f"{name}.py").write_text(HIDDEN)


def dependencies() -> set[str]:
    """The names that installed packages are imported by."""
    return {name for name in packages_distributions() if name.isidentifier()}


async def use_all(folder: Path, *arguments: str, command: tuple[str, ...]) -> list[str]:
    """Start the server, run a job of each kind, ask for everything, and stop; its log."""
    async with running_command(folder, *arguments, command=command) as server:
        assert {kind: (await server.run(kind)).get("result") for kind in RESULTS} == RESULTS
        failed = await server.run("failing")
        assert failed["error"]["type"] == "KeyError", failed
        job = failed["id"]
        line = b'{"type": "async"}\n'
        for expected, method, path, content in [
            (200, "GET", "/health", b""),
            (200, "GET", "/health/ready", b""),
            (200, "GET", "/openapi.json", b""),
            (200, "GET", f"/jobs/{job}", b""),
            (204, "DELETE", f"/jobs/{job}", b""),
            (200, "GET", "/jobs", b""),
            (400, "GET", "/jobs?nothing=1", b""),
            (201, "POST", "/jobs/batch", b'[{"type": "async"}]'),
            (201, "POST", "/jobs/stream", line),
            (400, "POST", "/jobs", b"{"),
            (404, "GET", "/nothing", b""),
            (405, "PUT", "/jobs", b""),
            (204, "OPTIONS", "/jobs", b""),
        ]:
            answer = await server.client.request(method, path, content=content)
            assert answer.status_code == expected, (method, path, answer.text)
        server.send(signal.SIGTERM)
        assert await server.wait_exit() == 0
        return server.lines


async def test_files_named_like_every_other_module_hide_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path, sys.stdlib_module_names | dependencies())

    lines = await use_all(tmp_path, command=SCRIPT)

    told = [line for line in lines if "module_hidden" in line]
    for name in ("queue", "types", "email", "time", "trio", "h11", "h2"):
        assert sum(f"hidden={tmp_path}/{name}.py by=" in line for line in told) == 1, name
    assert not [line for line in lines if "hidden!" in line]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
@pytest.mark.parametrize("options", [[], ["-P"]], ids=["", "-P"])
async def test_current_folder_hides_no_library_from_a_module(
    tmp_path: Path, options: list[str], *, elsewhere: bool
) -> None:
    current = tmp_path / "current" if elsewhere else tmp_path
    tmp_path.joinpath("current").mkdir()
    write_folder(tmp_path, [], handlers=USES_LIBRARIES)
    names = LIBRARIES + STARTING
    write_folder(current, names, handlers=USES_LIBRARIES)
    if elsewhere:
        (tmp_path / "config.toml").rename(tmp_path / "other.toml")

    lines = await use_all(
        current,
        "--config=../other.toml" if elsewhere else "--config=config.toml",
        command=(sys.executable, *options, "-m", "trio_jobs"),
    )

    told = [line for line in lines if "module_hidden" in line]
    assert len(told) == (0 if elsewhere else len(names))


async def test_current_folder_is_on_the_path_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.toml").write_text('[handlers]\nbeside = "beside:beside"\n')
    (tmp_path / "beside.py").write_text("def beside(payload): ...\n")

    ended = await run_command(tmp_path, "--config=config/config.toml", "--check", command=MODULE)

    assert ended.status == 0, ended.lines


async def test_files_named_like_libraries_hide_nothing_from_a_process(tmp_path: Path) -> None:
    here = {name for name in sys.stdlib_module_names if importlib.util.find_spec(name)}
    write_folder(tmp_path, here | dependencies(), handlers=USES_LIBRARIES)

    lines = await use_all(tmp_path, command=SCRIPT)

    assert not [line for line in lines if "hidden!" in line or "jobs_blocked" in line]


async def test_file_that_comes_later_hides_nothing_from_a_process(tmp_path: Path) -> None:
    write_folder(tmp_path, [], handlers=USES_LIBRARIES)

    async with running_command(tmp_path, command=MODULE) as server:
        for name in LIBRARIES:
            (tmp_path / f"{name}.py").write_text(HIDDEN)
        job = await server.run("process")

    assert job["result"] == RESULTS["process"]


async def test_folder_without_such_files_is_not_told_of(tmp_path: Path) -> None:
    write_folder(tmp_path, [])
    for name in ("email", "test"):  # folders that are no modules
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.txt").touch()

    lines = await use_all(tmp_path, command=SCRIPT)

    assert not [line for line in lines if "module_hidden" in line]


@pytest.mark.parametrize("command", [MODULE, SCRIPT], ids=["module", "script"])
@pytest.mark.parametrize("arguments", [["--check"], []], ids=["check", "start"])
async def test_handler_in_a_hidden_module_is_told_which_file_was_loaded(
    tmp_path: Path, arguments: list[str], command: tuple[str, ...]
) -> None:
    import email

    (tmp_path / "email.py").write_text("def send(payload): ...\n")

    ended = await run_command(
        tmp_path, *arguments, config='[handlers]\nemail = "email:send"\n', command=command
    )

    assert ended.status == 2
    assert ended.lines[-1] == (
        "trio-jobs: config.toml: handlers.email = 'email:send': "
        f"module 'email' ({email.__file__}) has no 'send'; "
        f"{tmp_path}/email.py is hidden by it: rename the file"
    )
    assert len(ended.lines) == 2
    assert f"{tmp_path}/email.py" in ended.lines[0]
    assert str(email.__file__) in ended.lines[0]


async def test_handler_in_a_hidden_package_is_told_as_well(tmp_path: Path) -> None:
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue/__init__.py").touch()
    (tmp_path / "queue/mail.py").write_text("def send(payload): ...\n")

    config = '[handlers]\nx = "queue.mail:send"\n'
    ended = await run_command(tmp_path, "--check", config=config, command=MODULE)

    assert ended.status == 2
    assert ended.lines[-1].endswith(
        f"no module named 'queue.mail' in {queue.__file__}; "
        f"{tmp_path}/queue/__init__.py is hidden by it: rename the file"
    )


async def test_check_tells_and_passes(tmp_path: Path) -> None:
    write_folder(tmp_path, ["queue", "time"])

    ended = await run_command(tmp_path, "--check", command=SCRIPT)

    assert ended.status == 0
    assert ended.lines == [
        f"trio-jobs: warning: {tmp_path}/queue.py is hidden by {queue.__file__}",
        f"trio-jobs: warning: {tmp_path}/time.py is hidden by built-in",
    ]
    assert "[handlers]" in ended.output


async def test_file_that_hides_the_library_is_told_of(tmp_path: Path) -> None:
    # In front of the library by PYTHONPATH, and imported before there is anything of ours.
    (tmp_path / "types.py").write_text(
        f"exec(open({json.dumps(os.path.dirname(os.__file__))} + '/types.py').read())\n"  # noqa: PTH120
    )
    environment = {"TRIO_JOBS_HTTP_BIND": "127.0.0.1:0", "PYTHONPATH": str(tmp_path)}

    ended = await run_command(
        tmp_path, "--check", config='[handlers]\nx = "work:quick"\n', environment=environment
    )

    assert ended.status == 0
    [line] = ended.lines
    assert line.startswith("trio-jobs: warning: /")
    assert line.endswith(f"/types.py is hidden by {tmp_path}/types.py")


def test_folder_of_the_packages_hides_none_of_them() -> None:
    folder = Path(pytest.__file__).parents[1]

    assert list(find_hidden_modules(folder)) == []


def test_module_that_has_been_imported_hides_a_file_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "pytest.py").touch()
    (tmp_path / "__main__.py").touch()

    assert list(find_hidden_modules(tmp_path)) == [
        HiddenModule("pytest", hidden=f"{tmp_path}/pytest.py", by=str(pytest.__file__))
    ]
