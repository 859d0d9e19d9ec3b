"""The servers of the tests."""

import os
import select
import subprocess
import sys

import pytest

from tests.postgres.fixtures import CrashDatabase


@pytest.mark.system
async def test_killed_server_keeps_what_was_committed(crash_database: CrashDatabase) -> None:
    await crash_database.fetch("create table t as select 1 as n")
    crash_database.kill()
    await crash_database.start()

    assert await crash_database.fetch("select n from t") == [(1,)]


START = """
from tests.postgres.cluster import Cluster, need_programs

cluster = Cluster(need_programs(), safe=False)
cluster.start()
print(cluster.pid, flush=True)
input()
"""


@pytest.mark.system
def test_server_ends_with_a_test_run_that_is_killed(
    pytestconfig: pytest.Config,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", START],
        cwd=pytestconfig.rootpath,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        server = os.pidfd_open(int(run.stdout.readline()))
        run.kill()

        select.select([server], [], [])  # until it has ended
        os.close(server)
