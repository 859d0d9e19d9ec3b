"""The servers of the tests."""

import os
import re
import select
import subprocess
import sys

import pytest

from tests.postgres.cluster import need_programs
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
    need_programs()
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


# A pytest on a machine without the server's programs.
WITHOUT = """
import sys
from pathlib import Path
import pytest
from tests.postgres import cluster

cluster.DEBIAN = Path("/nowhere")
options = ["-p", "no:cacheprovider", "-m", "system or not system", "-rs", "--no-fold-skipped"]
sys.exit(pytest.main([*options, *sys.argv[1:]]))
"""
NEED_A_SERVER = (
    "tests/postgres/test_cluster.py::test_killed_server_keeps_what_was_committed",
    "tests/postgres/test_cluster.py::test_server_ends_with_a_test_run_that_is_killed",
    "tests/stores/postgres/test_members.py::test_no_id_of_a_member_is_used_again",
)


@pytest.mark.system
@pytest.mark.parametrize(
    ("everything", "outcome"),
    [("", "SKIPPED .*: "), ("1", "Failed: TEST_EVERYTHING is set, and this ")],
)
def test_tests_without_a_server_say_so(
    pytestconfig: pytest.Config, everything: str, outcome: str
) -> None:
    variables = {"TEST_EVERYTHING": everything, "PYTEST_ADDOPTS": "", "PATH": "/nowhere"}
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, *NEED_A_SERVER],
        cwd=pytestconfig.rootpath,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )

    found = re.findall(rf"{outcome}needs a PostgreSQL server", run.stdout)
    assert len(found) == len(NEED_A_SERVER), run.stdout
