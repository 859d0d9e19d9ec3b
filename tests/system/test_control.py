"""The command while an operator changes its workers, its intake, and the types that it begins."""

import signal
from pathlib import Path

import httpx
import pytest

from tests.command import Gate, running_command

CONFIG = """
[pool]
workers = 2
{store}
[handlers]
quick = "work:quick"
wait = "work:wait_for_gate"
"""

HANDLERS = """
import os


async def quick(payload: object) -> object:
    return payload


def wait_for_gate(payload: object) -> None:
    os.read(os.open("gate", os.O_RDONLY), 1)
"""


async def ask(client: httpx.AsyncClient, path: str, body: object) -> dict[str, object]:
    """What the answer, a 200, says."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    members: dict[str, object] = answer.json()
    return members


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_stop_leaves_held_jobs_and_a_restart_over_a_file_holds_them_still(
    kind: str, tmp_path: Path
) -> None:
    config = CONFIG.format(store='[store]\npath = "jobs.db"' if kind == "file" else "")
    async with running_command(tmp_path, config=config, handlers=HANDLERS) as server:
        paused = await ask(server.client, "/pool/pause", {"type": ["quick"]})
        held = [await server.submit("quick", n) for n in range(3)]
        while (await server.client.get("/pool")).json()["held"] < 3:
            pass
        server.send(signal.SIGTERM)

        assert paused["until"] == ("resume" if kind == "file" else "restart")
        if kind == "memory":
            assert await server.wait_exit() == 1
            await server.wait_for_line("jobs_held", "job_type=quick", ",".join(held))
            return
        assert await server.wait_exit() == 0
        await server.wait_for_line("jobs_kept", "count=3")

    async with running_command(tmp_path, config=config, handlers=HANDLERS) as server:
        state = (await server.client.get("/pool")).json()
        assert (state["paused"], state["pending"]) == (["quick"], 3)
        assert await ask(server.client, "/pool/resume", {"all": True}) == {
            "paused": [],
            "until": "resume",
        }
        for job_id in held:
            answer = await server.client.get(f"/jobs/{job_id}", headers={"Prefer": "wait=20"})
            assert answer.json()["outcome"] == "succeeded"


async def test_workers_change_while_threads_run_and_a_stop_waits_for_the_leaving_ones(
    tmp_path: Path,
) -> None:
    with Gate(tmp_path) as gate:
        config = CONFIG.format(store="")
        async with running_command(tmp_path, config=config, handlers=HANDLERS) as server:
            more = await ask(server.client, "/pool/workers", {"workers": 5})
            for _ in range(4):  # as many as the gate lets through
                await server.submit("wait")
            while (await server.client.get("/pool")).json()["busy"] < 4:
                pass
            for n in range(3):  # for the one worker that stays
                await server.submit("quick", n)
            fewer = await ask(server.client, "/pool/workers", {"workers": 1})
            server.send(signal.SIGTERM)
            await server.wait_for_line("draining")
            refusal = await server.client.post("/pool/workers", json={"workers": 5})
            gate.open()

            assert (more["leaving"], fewer["leaving"]) == (0, 3)
            assert refusal.status_code == 409
            assert await server.wait_exit() == 0
