"""Row 10: from the start of the command to its first accepted job."""

import subprocess
import sys
import time

from bench import ours
from bench.load import Clients, post
from bench.measuring import take_turns
from bench.row import Result, Row, at_most
from bench.workload import SUBMISSION


def measure(*, turns: int = 9) -> list[Result]:
    """Measure the row."""
    subjects = {"command": _first_job, "import": _import_alone}
    values = take_turns(subjects, turns=turns)
    names = (
        10,
        "start of the command to its first accepted job",
        "`python -c 'import quart_trio'`",
    )
    reach = at_most(1.6)
    return [Row.of_turns(names, values, over="command", under="import", reach=reach, unit=" s")]


def _first_job() -> float:
    began = time.perf_counter()
    with ours.running() as server, Clients(server.port, connections=1) as clients:
        clients.send([post("/jobs", SUBMISSION)])
        return time.perf_counter() - began


def _import_alone() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import quart_trio"], check=True)
    return time.perf_counter() - began
