"""Plain functions for tests to run in child processes; light to import, for the children's sake."""

import atexit
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn


@dataclass
class Pair:
    """A payload."""

    left: int
    right: int


def add(pair: Pair) -> dict[str, object]:
    return {"sum": pair.left + pair.right, "pair": pair, "set": {1}}


def repeat(ctx, word: str, times: int = 2) -> list[str]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    return [ctx.type, *[word] * times]


def pid(_payload: object) -> int:
    return os.getpid()


def add_a_line(path: str) -> int:
    """Put a line into the file; return how many lines there are."""
    with Path(path).open("a+") as file:
        file.write("ran\n")
        file.seek(0)
        time.sleep(0.01)  # a cancel that is sent with the job comes before the answer
        return len(file.readlines())


def add_a_line_and_fail(path: str) -> NoReturn:
    """Put a line into the file, and fail."""
    raise ConnectionError(add_a_line(path))


def fail_at_a_name_in_latin_1() -> NoReturn:
    """Fail with a text that is no valid Unicode, as a file's name from another system may be."""
    raise LookupError(os.fsdecode(b"gr\xfc\xdfe.txt"))


def enter_and_wait(folder: str) -> int:
    """Leave the process's id in the folder, and return when there is a file `go` in it."""
    mine = Path(folder, f"{os.getpid()}.tmp")
    mine.write_text("")
    mine.rename(Path(folder, f"{os.getpid()}.pid"))
    while not Path(folder, "go").exists():
        time.sleep(0.005)
    return os.getpid()


def enter_and_hold_the_gil(folder: str) -> NoReturn:
    Path(folder, f"{os.getpid()}.pid").write_text("")
    while True:
        sum(range(10**12))  # one C call, for hours


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(status: int) -> None:
    os._exit(status)


def close_all_and_stay(path: str) -> None:
    os.closerange(3, 256)
    time.sleep(10)
    Path(path).touch()


def become_a_program(_payload: object) -> None:
    os.execvp("sleep", ["sleep", "60"])  # noqa: S606


def fork(_payload: object) -> int:
    return os.fork()


def fork_and_raise(_payload: object) -> int:
    copy = os.fork()
    if not copy:
        raise ValueError("in the copy")
    return copy


def fork_and_leave(path: str) -> None:
    if not os.fork():
        time.sleep(5)  # it holds what it has inherited
        Path(path).touch()
        os._exit(0)
    os._exit(3)


def fork_unseen_and_leave(path: str) -> None:
    if not ctypes.PyDLL(None).fork():  # as a library does it, without Python's knowing
        time.sleep(5)  # it holds what it has inherited
        Path(path).touch()
        os._exit(0)
    os._exit(3)


def crash(_payload: object) -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


def large(length: int) -> str:
    return "x" * length


def unserialisable(_payload: object) -> object:
    return threading.Lock()


def open_sockets(_payload: object) -> list[str]:
    links = [str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in descriptors()]
    return [link for link in links if link.startswith("socket:")]


def descriptors() -> list[int]:
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            os.fstat(int(name))
        except OSError:
            continue
        found.append(int(name))
    return found


def leave_a_thread_behind(_payload: object) -> None:
    threading.Thread(target=time.sleep, args=(60,)).start()


def loaded_main(_payload: object) -> str | None:
    return getattr(sys.modules["__main__"], "__file__", None)


def shout(_payload: object) -> None:
    raise ValueError("loud")


def have_a_family(folder: str) -> None:
    """A copy of this process, and a program that the copy has started; each leaves its id."""
    enter = f"import os, pathlib, sys; pathlib.Path({folder!r}, f'{{os.getpid()}}.pid').touch()"
    if not os.fork():
        subprocess.Popen([sys.executable, "-c", f"{enter}; import time; time.sleep(60)"])
    Path(folder, f"{os.getpid()}.pid").touch()
    time.sleep(60)


def leave_a_program(folder: str, *, _session: bool = False) -> None:
    program = subprocess.Popen(["sleep", "60"], start_new_session=_session)
    program.returncode = 0  # or its end would be asked for, with a warning
    Path(folder, f"{program.pid}.pid").touch()


def leave_a_program_and_die(folder: str) -> None:
    leave_a_program(folder)
    os._exit(0)


def leave_a_session(folder: str) -> None:
    leave_a_program(folder, _session=True)
    time.sleep(60)


def sleep(_payload: object) -> None:
    time.sleep(60)


@dataclass
class Started:
    """A program to run, and where its id is left."""

    folder: str
    program: list[str]


def run_a_program(started: Started) -> None:
    program = subprocess.Popen(started.program)
    Path(started.folder, f"{program.pid}.pid").touch()
    program.wait()


def signals_of_a_program(_payload: object) -> dict[str, int]:
    status = subprocess.run(
        ["cat", "/proc/self/status"], check=True, capture_output=True, text=True
    ).stdout
    lines = dict(line.split(":\t", 1) for line in status.splitlines())
    # Those that Python knows: the others are the C library's.
    known = sum(1 << (number - 1) for number in range(1, 32))
    return {name: int(lines[name], 16) & known for name in ("SigBlk", "SigIgn", "SigCgt")}


def square(number: int) -> int:
    return number * number


def compute_in_a_pool(method: str) -> list[int]:
    import multiprocessing

    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(square, range(3))


def terminate_a_process(method: str) -> int | None:
    import multiprocessing

    context = multiprocessing.get_context(method)
    process = context.Process(target=time.sleep, args=(60,))  # type: ignore[attr-defined]
    process.start()
    time.sleep(0.1)  # it is a copy then, or a program
    process.terminate()
    process.join()
    code: int | None = process.exitcode
    return code


def interrupt_a_copy(_payload: object) -> str:
    read, write = os.pipe()
    copy = os.fork()
    if not copy:
        try:
            os.write(write, b"ready,")
            time.sleep(60)
        except KeyboardInterrupt as error:
            os.write(write, type(error).__name__.encode())
        os._exit(0)
    os.close(write)
    assert os.read(read, 6) == b"ready,"
    os.kill(copy, signal.SIGINT)
    os.waitpid(copy, 0)
    return os.read(read, 100).decode()


log = logging.getLogger(__name__)


def log_lines(count: int) -> int:
    for number in range(count):
        extra = {"number": number, "odd": [1, (2,)]}
        log.info("line %d of %d", number, count, extra=extra)
    return os.getpid()


def log_an_exception(_payload: object) -> None:
    try:
        print(1 / 0)  # noqa: T201
    except ZeroDivisionError:
        log.exception("divided")


def warn_and_fail_in_a_thread(_payload: object) -> None:
    def fail() -> None:
        raise ValueError("in a thread")

    warnings.warn("careful", stacklevel=1)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def log_from_threads(count: int) -> None:
    def log_some() -> None:
        for _ in range(count):
            log.warning("x" * 1000)

    threads = [threading.Thread(target=log_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def log_in_a_copy(_payload: object) -> None:
    copy = os.fork()
    if copy:
        os.waitpid(copy, 0)
    else:
        log.warning("from the copy")


def log_at_exit(_payload: object) -> None:
    atexit.register(log.warning, "at exit")


def loaded_modules(_payload: object) -> list[str]:
    return [*sys.modules]


def folder(_payload: object) -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return None


def _wait_until_asked() -> None:
    Path("begun").touch()
    while not Path("go").exists():
        time.sleep(0.005)


def text_when_asked(_payload: object) -> str:
    _wait_until_asked()
    return "done"


def long_text_when_asked(_payload: object) -> str:
    """Return more than a pipe holds."""
    _wait_until_asked()
    return "x" * 500_000


def fail_when_asked(_payload: object) -> NoReturn:
    _wait_until_asked()
    raise ValueError("no")


def ask(what: str) -> NoReturn:
    """Raise what a retry policy decides about."""
    from trio_jobs import GiveUp, Retry, Snooze  # not at the top: no other task needs them

    match what:
        case "retry":
            raise Retry(after=30) from OSError("busy")
        case "snooze":
            raise Snooze(30)
        case "give up":
            raise GiveUp("no")
        case "fail":
            raise ConnectionResetError("busy")
        case _:
            raise ExceptionGroup("g", [OSError("busy"), ExceptionGroup("in", [ValueError("no")])])


def report_pages(ctx, folder: str, then: str = "succeed") -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Report a page, and then more of them than anybody reads; wait for `go`; and end so."""
    ctx.progress(1, 3, "page 1")
    for number in range(2_000):
        ctx.progress(number, message="one of many")
    ctx.progress(2, 3, "page 2 — \ud800")
    enter_and_wait(folder)
    ctx.progress(3, 3, "page 3")
    if then == "fork":
        if (copy := os.fork()) == 0:
            ctx.progress(4)
            os._exit(0)
        os.waitpid(copy, 0)
    if then == "die":
        time.sleep(0.3)  # until the last report is sent
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "refuse":
        ctx.progress("4")
    if then != "succeed":
        raise ValueError(then)
    return then


@dataclass
class Tiny:
    """A short job, and what it does besides."""

    ledger: str
    number: int
    seconds: float = 0.0002
    then: str = ""


def note_and_compute(tiny: Tiny) -> int:
    """Put the number into the ledger, compute for so long, and do what else is asked."""
    note(tiny.ledger, f"{tiny.number} {os.getpid()}")
    until = time.perf_counter() + tiny.seconds
    while time.perf_counter() < until:
        pass
    if tiny.then == "leave":
        os._exit(3)
    if tiny.then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if tiny.then == "raise":
        raise ValueError(tiny.number)
    if tiny.then == "fork" and not os.fork():
        return 0
    if tiny.then == "fork unseen":
        ctypes.PyDLL(None).fork()  # as a library does it, without Python's knowing
    if tiny.then == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    while tiny.then == "hold" and not Path(f"{tiny.ledger}.go").exists():
        time.sleep(0.005)
    if tiny.then == "wait":
        time.sleep(60)
    return tiny.number


def note(ledger: str, text: str) -> None:
    """Put a line into a file, in one write."""
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{text}\n".encode())
    os.close(file)
