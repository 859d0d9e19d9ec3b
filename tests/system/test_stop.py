"""The three levels of a stop, and the hard limit: nothing a program does outlasts it."""

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

PROGRAMS = Path(__file__).with_name("stop_programs.py")

# Far above what any of the programs needs, far below the minute for which they hang.
TOO_LONG = 60


def start(name: str, *, stderr: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(PROGRAMS), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)


def run(name: str) -> tuple[int, str, str]:
    with start(name) as program:
        try:
            out, err = program.communicate(timeout=TOO_LONG)
        finally:
            program.kill()
    return program.returncode, out.decode(), err.decode()


def status_of(program: subprocess.Popen[bytes]) -> int:
    """Its exit status, once it has ended; it is killed if that takes too long."""
    try:
        return program.wait(TOO_LONG)
    finally:
        program.kill()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_a_request_and_no_exception(signum: signal.Signals) -> None:
    with start("ends_in_order") as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.send_signal(signum)
        out, err = program.communicate(timeout=TOO_LONG)

    assert (program.returncode, out, err) == (0, b"requested\n", b"")


def test_five_signals_at_once_are_one() -> None:
    with start("ends_in_order") as program:
        assert program.stdout is not None
        program.stdout.readline()
        for signum in [signal.SIGINT, signal.SIGTERM, *[signal.SIGINT] * 3]:
            program.send_signal(signum)
        out, err = program.communicate(timeout=TOO_LONG)

    assert (program.returncode, out, err) == (0, b"requested\n", b"")


def test_signal_while_the_interpreter_ends_changes_nothing() -> None:
    with start("is_signalled_while_the_interpreter_ends") as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.terminate()
        _, err = program.communicate(timeout=TOO_LONG)

    assert (program.returncode, err) == (0, b"")


@pytest.mark.parametrize(
    ("name", "in_the_way"),
    [
        ("blocks_the_loop", "in blocks_the_loop.<locals>.main"),
        ("hides_behind_a_shield", "hide (and 1 more like it)"),
        ("blocks_at_exit", "in hang"),
        ("hangs_after_a_crash", "in hang"),
        ("is_signalled_after_a_crash", "in hang"),
        ("hangs_after_the_second_signal", "in hangs_after_the_second_signal.<locals>.main"),
        ("cannot_name_its_jobs", "and more that could not be read: RuntimeError\nthread"),
    ],
)
def test_hard_limit_ends_a_program_that(name: str, in_the_way: str) -> None:
    status, _, err = run(name)

    assert status == 70
    assert err.startswith("hard limit reached after 0.")
    assert in_the_way in err
    if name == "blocks_the_loop":
        assert err.splitlines()[1] == "job_unfinished job_id=a"  # before all else
        assert err.splitlines()[-1] == "not_all_named count=1"


def test_hard_limit_ends_a_program_whose_report_fails() -> None:
    status, _, _ = run("cannot_report")

    assert status == 70


@contextlib.contextmanager
def unread_socket() -> Iterator[int]:
    """What systemd gives a service for its log; it cannot be opened anew."""
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                writer.send(b"x")
        writer.setblocking(True)
        yield writer.fileno()


def test_unread_log_does_not_hold_up_the_hard_limit() -> None:
    with unread_socket() as log, start("blocks_the_loop", stderr=log) as program:
        status = status_of(program)

    assert status == 70


@pytest.mark.parametrize(
    "name",
    ["holds_the_gil", "ignores_sigalrm_and_holds_the_gil", "holds_the_gil_in_a_thread"],
)
def test_faulthandler_ends_a_program_that(name: str) -> None:
    """Also where the main thread, which alone can make SIGALRM deadly, runs no Python any more."""
    status, _, err = run(name)

    assert status == 1
    assert err.startswith("Timeout (")
    assert "in holds_the_gil" in err or "in signal_and_hold_the_gil" in err


def test_sigalrm_ends_a_program_whose_stacks_cannot_be_written() -> None:
    """Also if it ignored SIGALRM: a handler's module may, or whoever started the server."""
    with (
        unread_socket() as log,
        start("ignores_sigalrm_and_holds_the_gil", stderr=log) as program,
    ):
        status = status_of(program)

    assert status == -signal.SIGALRM
