"""The program of the page on embedding stops as the page says."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import httpx
import pytest

from tests.docs.blocks import DOCS, SOURCE, blocks_of

SECONDS = 60.0

[PROGRAM] = [
    each.text for each in blocks_of(DOCS / "how-to/embedding.md") if each.name == "shop.py"
]

# What takes the place of the handler's three seconds.
ENDLESS = "await trio.sleep_forever()"
STUBBORN = """try:
        await trio.sleep_forever()
    except trio.Cancelled:
        log.info("swallowed")
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()"""

Shop = subprocess.Popen[str]


@contextmanager
def shop(folder: Path, *, work: str, grace: float) -> Iterator[Shop]:
    """The program, with another handler and grace period; it has one job, and runs it."""
    text = PROGRAM
    for old, new in {
        "await trio.sleep(3)": work,
        "GRACE_PERIOD = 25.0": f"GRACE_PERIOD = {grace}",
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "shop.py").write_text(text)
    with subprocess.Popen(
        [sys.executable, "shop.py"],
        cwd=folder,
        env={"PYTHONPATH": str(SOURCE.parent.resolve())},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        too_long = Timer(SECONDS, process.kill)
        too_long.start()
        try:
            read_until(process, "Running on")
            yield process
        finally:
            too_long.cancel()
            process.kill()


def submit(folder: Path) -> str:
    """The id of a job that it has accepted."""
    transport = httpx.HTTPTransport(uds=str(folder / "shop.sock"))
    with httpx.Client(transport=transport, base_url="http://shop", timeout=SECONDS) as client:
        answer = client.post("/queue/jobs", json={"type": "email", "payload": "a@example.com"})
    return str(answer.json()["id"])


def read_until(process: Shop, event: str) -> None:
    assert process.stderr is not None
    assert any(event in line for line in process.stderr), event


def end(process: Shop) -> tuple[int, str]:
    assert process.stderr is not None
    rest = process.stderr.read()
    return process.wait(), rest


def test_end_of_the_grace_period_names_what_is_left(tmp_path: Path) -> None:
    with shop(tmp_path, work=ENDLESS, grace=0.5) as process:
        job_id = submit(tmp_path)
        process.send_signal(signal.SIGTERM)
        read_until(process, "draining")
        status, log = end(process)

    assert status == 1
    assert log.endswith(f"jobs_interrupted job_type=email job_ids={job_id}\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_cuts_short_and_names(tmp_path: Path, number: signal.Signals) -> None:
    with shop(tmp_path, work=ENDLESS, grace=600) as process:
        job_id = submit(tmp_path)
        process.send_signal(number)
        read_until(process, "draining")
        process.send_signal(number)
        status, log = end(process)

    assert status == 1
    assert log.endswith(f"jobs_interrupted job_type=email job_ids={job_id}\n")


def test_third_sigterm_ends_it_on_the_spot(tmp_path: Path) -> None:
    with shop(tmp_path, work=STUBBORN, grace=600) as process:
        job_id = submit(tmp_path)
        process.send_signal(signal.SIGTERM)
        read_until(process, "draining")
        process.send_signal(signal.SIGTERM)
        read_until(process, "swallowed")
        process.send_signal(signal.SIGTERM)
        status, log = end(process)

    assert status == -signal.SIGTERM
    assert job_id not in log
