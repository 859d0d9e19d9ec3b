"""Plain functions for tests to run in child processes; light to import, for the children's sake."""

import os
import signal
import sys
import threading
import time
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


def pid(_payload: object) -> int:
    return os.getpid()


def add_a_line(path: str) -> int:
    """Put a line into the file; how many there are then."""
    with Path(path).open("a+") as file:
        file.write("ran\n")
        file.seek(0)
        return len(file.readlines())


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
