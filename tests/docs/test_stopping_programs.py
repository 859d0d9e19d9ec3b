"""The program of the page on embedding stops as the page says."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import httpx
import pytest

from tests.docs.blocks import DOCS, SOURCE, blocks_of

SECONDS = 30.0

[PROGRAM] = [
    each.text for each in blocks_of(DOCS / "how-to/embedding.md") if each.name == "shop.py"
]

Shop = subprocess.Popen[str]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """The program, with a handler that takes too long and a short grace period; it serves."""
    text = PROGRAM.replace("trio.sleep(3)", "trio.sleep(600)")
    grace = "GRACE_PERIOD = 25.0"
    assert grace in text
    (tmp_path / "shop.py").write_text(text.replace(grace, "GRACE_PERIOD = 2.0"))
    with subprocess.Popen(
        [sys.executable, "shop.py"],
        cwd=tmp_path,
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


@pytest.fixture
def job_id(shop: Shop, tmp_path: Path) -> str:
    """A job that it has accepted."""
    transport = httpx.HTTPTransport(uds=str(tmp_path / "shop.sock"))
    with httpx.Client(transport=transport, base_url="http://shop", timeout=SECONDS) as client:
        answer = client.post("/queue/jobs", json={"type": "email", "payload": "a@example.com"})
    return str(answer.json()["id"])


def read_until(shop: Shop, event: str) -> None:
    assert shop.stderr is not None
    assert any(event in line for line in shop.stderr), event


def end(shop: Shop) -> tuple[int, str]:
    assert shop.stderr is not None
    rest = shop.stderr.read()
    return shop.wait(), rest


def test_end_of_the_grace_period_names_what_is_left(shop: Shop, job_id: str) -> None:
    shop.send_signal(signal.SIGTERM)
    read_until(shop, "draining")
    status, log = end(shop)

    assert status == 1
    assert f"jobs_interrupted job_ids={job_id}\n" in log


def test_second_ctrl_c_cuts_short_and_names(shop: Shop, job_id: str) -> None:
    shop.send_signal(signal.SIGINT)
    read_until(shop, "draining")
    shop.send_signal(signal.SIGINT)
    status, log = end(shop)

    assert status != 0
    assert f"jobs_interrupted job_ids={job_id}\n" in log
    assert "KeyboardInterrupt" in log


def test_second_sigterm_ends_it_on_the_spot(shop: Shop, job_id: str) -> None:
    shop.send_signal(signal.SIGTERM)
    read_until(shop, "draining")
    shop.send_signal(signal.SIGTERM)
    status, log = end(shop)

    assert status == -signal.SIGTERM
    assert job_id not in log
