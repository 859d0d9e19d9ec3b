"""Lines reach the stream in order; a stream that takes none costs lines, and nothing else."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.logs.pipe import Pipe
from tests.system.log_programs import FORKS, FORKS_LINES

PROGRAMS = Path(__file__).with_name("log_programs.py")

# Far above what anything here needs.
TOO_LONG = 60


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def run_program(name: str, *, stderr: int = subprocess.PIPE, cwd: Path | None = None) -> list[str]:
    """Run a program that logs; its lines, without time, level and logger, if they are read."""
    command = [sys.executable, str(PROGRAMS), name]
    done = subprocess.run(command, check=False, timeout=TOO_LONG, text=True, stderr=stderr, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return [line.split(" ", 3)[-1] for line in (done.stderr or "").splitlines()]


@pytest.mark.parametrize("name", ["logs_much_and_ends", "logs_in_a_child_and_ends"])
def test_unread_log_does_not_hold_up_a_program_that(name: str, pipe: Pipe) -> None:
    pipe.fill()

    run_program(name, stderr=pipe.writer)


def test_lines_of_forked_children_arrive_whole_and_once() -> None:
    lines = run_program("forks_among_much")

    expected = [f"parent n={n}" for n in range(2 * FORKS_LINES)]
    for child in range(FORKS):
        expected += [f"child{child} n={n} pad={'x' * 1000}" for n in range(FORKS_LINES)]
    assert sorted(lines) == sorted(expected)


def test_forks_in_the_middle_of_logging_neither_hang_nor_lose_a_line() -> None:
    lines = run_program("forks_while_threads_log")

    children = [line for line in lines if line.startswith("child")]
    assert sorted(children) == sorted(f"child n={n}" for n in range(100))


def test_child_that_has_closed_all_descriptors_writes_into_none_of_its_files(
    tmp_path: Path,
) -> None:
    run_program("becomes_a_daemon_and_logs", cwd=tmp_path)

    assert (tmp_path / "data").read_bytes() == b"data"


def test_program_without_standard_error_logs_nowhere() -> None:
    command = f'exec "{sys.executable}" "{PROGRAMS}" logs_much_and_ends 2>&-'

    assert subprocess.run(["sh", "-c", command], check=False, timeout=TOO_LONG).returncode == 0
