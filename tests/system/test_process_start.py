"""How a child process is started: in which folder, with which code, importing what."""

import fcntl
import importlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from tests.handlers import tasks
from tests.handlers.support import able_to_import_tests, process, wait_for_pids, wait_until
from tests.support import ProcessPool, RunningPool, load_function, running_pool
from tests.system.conftest import MakeHandler
from trio_jobs import Ending, Handler, Outcome
from trio_jobs.handlers.frames import Function


async def test_a_child_imports_neither_trio_nor_the_server(processes: ProcessPool) -> None:
    handler = Handler.of(tasks.loaded_modules, run="process")

    ending = await process(handler, processes=processes)

    assert ending.result is not None
    loaded = set(msgspec.json.decode(ending.result))
    assert not loaded & {"trio", "quart", "hypercorn", "asyncio", "pydantic"}
    assert "multiprocessing.context" not in loaded
    assert "trio_jobs.child_process" in loaded
    ours = {name for name in loaded if name.startswith("trio_jobs.")}
    assert not ours & {"trio_jobs.pool.pool", "trio_jobs.logs", "trio_jobs.server", "trio_jobs.cli"}
    assert not ours & {"trio_jobs.settings", "trio_jobs.handlers.retry_policy", "trio_jobs.job"}


async def test_a_child_has_no_main_module_that_could_be_run_again(processes: ProcessPool) -> None:
    ending = await process(Handler.of(tasks.loaded_main, run="process"), processes=processes)

    assert ending.result == b"null"


@pytest.mark.parametrize("what", ["changed", "removed", "moved", "gone before"])
async def test_a_process_starts_in_the_folder_of_the_pool_whatever_becomes_of_it(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if what == "gone before":
        folder.rmdir()

    async with ProcessPool(1) as processes:
        if what == "changed":
            monkeypatch.chdir(tmp_path)
        elif what == "moved":
            folder.rename(tmp_path / "moved")
        elif what == "removed":
            folder.rmdir()
        ending = await process(Handler.of(tasks.folder, run="process"), processes=processes)

    expected = {"changed": f'"{folder}"', "moved": f'"{tmp_path}/moved"'}
    assert ending.result == expected.get(what, "null").encode()


async def test_files_of_the_users_do_not_hide_what_a_child_is_made_of(
    processes: ProcessPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("msgspec", "trio_jobs", "logging", "types", "queue", "signal"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError('the wrong one')\n")
    (tmp_path / "beside_many.py").write_text("def work(payload): return 'found'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    handler = Handler.of(math.sqrt, run="process", name="beside_many:work")

    ending = await process(handler, processes=processes)

    assert ending.result == b'"found"'


async def test_folder_may_have_a_name_that_is_no_unicode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / os.fsdecode(b"gr\xfc\xdfe")
    folder.mkdir()
    file = folder / "in_latin_1.py"
    file.write_text("def work(payload): return 'found'\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "argv", [str(file)])
    importlib.import_module("in_latin_1")
    monkeypatch.setitem(sys.modules, "in_latin_1", sys.modules.pop("in_latin_1"))
    table = {"test": Handler.of(math.sqrt, run="process", name="in_latin_1:work")}
    before = file.stat()

    async with running_pool(table, workers=1) as pool:
        file.write_text("def work(payload): return 'a later one'\n")
        job = pool.submit("test")
        blocked = await wait_until(lambda: pool.blocked or pool.outcome(job))
        file.write_text("def work(payload): return 'found'\n")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert blocked == f"code_changed files={tmp_path}/gr\\udcfc\\udcdfe/in_latin_1.py"
    assert pool.ending(job) == Ending(outcome=Outcome.SUCCEEDED, result=b'"found"')


@pytest.mark.parametrize("file", ["twice.py", "twice/__init__.py"])
async def test_a_module_is_the_one_that_the_server_has_imported(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("first", "second"):
        path = tmp_path / folder / file
        path.parent.mkdir(parents=True)
        path.write_text(f"name = {folder!r}\n")
        path.with_name("part.py").write_text(f"name = {folder!r}\n")
    (tmp_path / "second/twice_user.py").write_text(
        "import twice\n"
        "def work(payload): return [twice.name, __import__(payload, fromlist=['name']).name]\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "first")
    importlib.import_module("twice")
    monkeypatch.setitem(sys.modules, "twice", sys.modules.pop("twice"))  # until this test ends
    monkeypatch.syspath_prepend(tmp_path / "second")
    handler = Handler.of(math.sqrt, run="process", name="twice_user:work")

    async with ProcessPool(1, functions=[Function("twice_user:work", None)]) as processes:
        part = "twice.part" if "/" in file else "twice"
        ending = await process(handler, f'"{part}"'.encode(), processes=processes)

    assert ending.result == b'["first","first"]'


async def test_an_import_that_fails_in_the_child_is_its_jobs_error(
    processes: ProcessPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails_there.py").write_text("raise ValueError('not here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    handler = Handler.of(math.sqrt, run="process", name="fails_there:work")

    ending = await process(handler, processes=processes)
    other = await process(Handler.of(tasks.pid, run="process"), processes=processes)

    assert ending.error is not None
    assert ending.error.type == "HandlerError"
    assert ending.error.message == (
        "module 'fails_there' could not be imported: ValueError: not here"
        f" ({tmp_path}/fails_there.py:1)"
    )
    assert other.outcome is Outcome.SUCCEEDED


ONCE_ONLY = """
import os
with open({ledger!r}, "a") as file:
    file.write(f"{{os.getpid()}}\\n")
{in_child}
def work(payload): return os.getpid()
def other(payload): return os.getpid()
"""


def module_of(
    folder: Path, name: str, in_child: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Handler]:
    """Handlers for `work` and `other` of a module, that does something else in a process."""
    ledger = str(folder / f"{name}.ledger")
    only = f"if os.getpid() != {os.getpid()}:\n    {in_child}\n"
    (folder / f"{name}.py").write_text(ONCE_ONLY.format(ledger=ledger, in_child=only))
    monkeypatch.syspath_prepend(folder)
    return {
        f"{name}.{each}": Handler.of(
            load_function(f"{name}:{each}"), run="process", name=f"{name}:{each}"
        )
        for each in ("work", "other")
    }


async def ending_of_job(pool: RunningPool, job_type: str) -> Ending:
    job = pool.submit(job_type)
    await wait_until(lambda: pool.ending(job))
    ending = pool.ending(job)
    assert ending is not None
    return ending


LOCKS = """
    import fcntl
    lock = open({!r})
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""


async def test_a_lock_that_an_import_wants_fails_its_modules_jobs_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").touch()
    table = module_of(tmp_path, "locks", LOCKS.format(str(tmp_path / "lock")), monkeypatch)
    table |= module_of(tmp_path, "is_free", "pass", monkeypatch)

    async with running_pool(table, workers=1, processes=1) as pool:
        with (tmp_path / "lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            names = ("locks.work", "is_free.work", "locks.other", "is_free.other")
            endings = [await ending_of_job(pool, name) for name in names]
        after = [await ending_of_job(pool, "locks.work") for _ in range(2)]

    failed, ran = endings[0::2], endings[1::2]
    for ending in failed:
        assert ending.error is not None
        assert "'locks' could not be imported: BlockingIOError: [Errno 11]" in ending.error.message
    assert [ending.outcome for ending in [*ran, *after]] == [Outcome.SUCCEEDED] * 4
    assert ran[0] != ran[1]  # each from a process that has ended after it
    assert after[0] == after[1]
    imports = (tmp_path / "locks.ledger").read_text().split()
    assert len({*imports}) == len(imports) == 6  # once in each process


CHANGES: dict[str, Callable[[str], str | None]] = {
    "half written": lambda _: "def work(payload:\n",
    "needs more": lambda _: "import not_installed\n",
    "without the function": lambda _: "",
    "as long as before": lambda content: content.replace("return", "yield "),
    "longer": lambda content: 2 * content,
    "removed": lambda _: None,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", ["work", "helps"])
async def test_jobs_wait_while_there_is_new_code_and_run_when_the_old_is_back(
    change: str, which: str, make_handler: MakeHandler, tmp_path: Path
) -> None:
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    files = {"work": tmp_path / f"{name}.py", "helps": tmp_path / f"{name}_helps.py"}
    files["helps"].write_text("def help(): return 'old'\n")
    source = f"from {name}_helps import help\ndef work(payload): return help()"
    table = {"test": make_handler(name, source)}
    changed = files[which]
    before, content = changed.stat(), changed.read_text()

    async with running_pool(table, workers=1) as pool:
        new = CHANGES[change](content)
        if new is None:
            changed.unlink()
        else:
            changed.write_text(new)
        job = pool.submit("test")
        blocked = await wait_until(lambda: pool.blocked)
        changed.write_text(content)
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert blocked == f"code_changed files={changed}"
    assert pool.ending(job) == Ending(outcome=Outcome.SUCCEEDED, result=b'"old"')


WRITES = """
import importlib, pathlib
pathlib.Path(__file__).with_name("made_by_import.py").write_text("value = 'made'\\n")
importlib.invalidate_caches()
import os, made_by_import
def work(payload): os._exit(3) if payload else None; return made_by_import.value
"""


async def test_a_module_that_an_import_writes_is_not_taken_for_new_code(
    make_handler: MakeHandler,
) -> None:
    handler = make_handler("writes_a_module", WRITES)

    async with running_pool({"test": handler}, workers=1) as pool:
        for payload in (b"false", b"true", b"false"):  # the last one in a second process
            last = pool.submit("test", payload)
        await wait_until(lambda: pool.ending(last))

    ending = pool.ending(last)
    assert ending == Ending(outcome=Outcome.SUCCEEDED, result=b'"made"')


async def test_jobs_count_as_blocked_while_an_import_takes_long_and_begin_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("trio_jobs.handlers.child_start._IMPORTING_TIME", 0.3)
    wait = f"""
    import time
    while not os.path.exists({str(tmp_path / "go")!r}): time.sleep(0.005)
"""
    table = module_of(tmp_path, "takes_its_time", wait, monkeypatch)

    async with running_pool(table, workers=1) as pool:
        job = pool.submit("takes_its_time.work")
        blocked = await wait_until(lambda: pool.blocked)
        assert pool.parts.pool.unfinished().ids == ([], [job.id])
        (tmp_path / "go").touch()
        await wait_until(lambda: pool.outcome(job))
        assert pool.blocked is None

    assert blocked == "a process is still importing its modules after 0.3 s"
    assert pool.outcome(job) is Outcome.SUCCEEDED
    assert [record.message for record in caplog.records] == ["jobs_blocked"]
    assert len((tmp_path / "takes_its_time.ledger").read_text().split()) == 2


PROGRAM = """
import trio
from tests.handlers import tasks
from trio_jobs import Handler, open_jobs

def own(payload):
    return __name__

async def main():
    handlers = {"other": Handler.of(tasks.pid, run="process")}
    if "own" in %(which)r:
        handlers["own"] = Handler.of(own, run="process")
    async with open_jobs(handlers, workers=1, processes=1) as jobs:
        job = await jobs.wait(jobs.submit(%(which)r).id)
        print(job.outcome, job.ending.error and job.ending.error.message)

%(guard)strio.run(main)
"""

GUARD = "if __name__ == '__main__': "


@pytest.mark.parametrize(
    ("which", "guard", "output"),
    [
        ("other", "", "succeeded None\n"),
        ("own", GUARD, "succeeded None\n"),
        (
            "own",
            "",
            "failed the program could not be imported: RuntimeError: a child process imports this",
        ),
    ],
)
async def test_a_program_needs_a_guard_only_for_functions_of_its_own_file(
    which: str, guard: str, output: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM % {"which": which, "guard": guard})

    finished = await trio.run_process(
        [sys.executable, program], env=able_to_import_tests(), capture_stdout=True
    )

    assert finished.stdout.decode().startswith(output)


async def test_new_code_is_not_run_under_the_old_server(
    make_handler: MakeHandler, tmp_path: Path
) -> None:
    module = tmp_path / "gets_replaced.py"
    table = {
        "new": make_handler("gets_replaced", "def work(payload): return 'old'"),
        "wait": Handler.of(tasks.enter_and_wait, run="process"),
    }
    folder = f'"{tmp_path}"'.encode()

    async with running_pool(table, workers=2, processes=2) as pool:
        first = pool.submit("new")
        await wait_until(lambda: pool.outcome(first))
        old = module.stat()
        module.write_text("def work(payload): return 'new'\n" * 2)
        waiting = pool.submit("wait", folder)  # in the process that there is
        await wait_for_pids(tmp_path)
        second = pool.submit("new")
        blocked = await wait_until(lambda: pool.blocked)
        assert pool.parts.pool.unfinished().ids == ([waiting.id], [second.id])
        (tmp_path / "go").touch()  # the job that waits gets the process with the old code

    endings = [pool.ending(job) for job in (first, second)]
    assert blocked == f"code_changed files={module}"
    assert endings == [Ending(outcome=Outcome.SUCCEEDED, result=b'"old"')] * 2
    assert old != module.stat()
