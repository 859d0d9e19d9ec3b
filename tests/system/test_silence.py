"""A network that swallows what servers and their database send, and tells nobody."""

import signal
from dataclasses import replace
from pathlib import Path

from tests.command import Gate, running_command
from tests.postgres.databases import Database
from tests.postgres.proxy import Proxy
from tests.system.test_database import CONFIG, HANDLERS, wait_for
from tests.system.test_leases import end_of, noted, server_of

# Over TCP the kernel gives up what is not acknowledged after ten seconds, as here the pump.
IMPATIENT = (
    "import trio_jobs.stores.postgres.pump as pump\npump._PATIENCE = pump._LONGEST_PATIENCE = 1.0"
)


async def test_silent_server_cuts_its_job_which_runs_at_another(
    tmp_path: Path, database: Database, proxy: Proxy
) -> None:
    async with server_of(tmp_path, replace(database, url=proxy.url)) as silent:
        job_id = await silent.submit("hang")
        await noted(tmp_path, "begun")
        async with server_of(tmp_path, database) as other:
            proxy.freeze()

            assert await noted(tmp_path, "cut") == [silent.process.pid]
            assert (await end_of(other, job_id))["result"] == other.process.pid

            proxy.go_on()
            await silent.wait_for_lines(2, "joined")
            assert (await end_of(silent, job_id))["result"] == other.process.pid
            for server in (silent, other):
                server.send(signal.SIGTERM)
                assert await server.wait_exit() == 0
        assert silent.lines_with("lease_lost")


async def test_connections_that_fall_silent_are_replaced_within_the_lease(
    tmp_path: Path, database: Database, proxy: Proxy
) -> None:
    """As behind a firewall that has forgotten them: new ones pass."""
    config = CONFIG.format(url=proxy.url).replace("timeout = 30", "timeout = 60\nlease = 12")
    start = running_command(tmp_path, config=config, handlers=HANDLERS, patch=IMPATIENT)
    with Gate(tmp_path) as gate:
        async with start as server:
            held = await server.submit("wait")
            await server.run("quick")
            proxy.silence()

            later = await server.submit("quick")
            await server.wait_for_line("database_back")
            await server.wait_for_line("listener_lost", "has not answered in time")
            await server.wait_for_line("listener_back")
            gate.open()

            for job_id in (held, later):
                assert await wait_for(server, job_id) == "succeeded"
                assert (await server.job(job_id))["attempts"] == 1
            server.send(signal.SIGTERM)
            assert await server.wait_exit() == 0
            assert not server.lines_with("lease_lost")
