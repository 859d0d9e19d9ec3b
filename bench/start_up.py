"""Row 10: from the start of the command to its first accepted job."""

import subprocess
import sys
import time

from bench import ours
from bench.load import Clients, post
from bench.measuring import Spread, ratio, take_turns
from bench.row import Reach, Result, Row
from bench.workload import SUBMISSION


def measure(*, turns: int = 9) -> list[Result]:
    """Measure the row."""
    subjects = {"command": _first_job, "import": _import_alone}
    for warm_up in subjects.values():  # compiles modules and fills the page cache
        warm_up()
    values = take_turns(subjects, turns=turns)
    return [
        Row(
            number=10,
            what="start of the command to its first accepted job",
            against="`python -c 'import quart_trio'`",
            figure=ratio(values["command"], values["import"]),
            reach=Reach(bound=1.6, at_most=True),
            sides={name: Spread.of(each) for name, each in values.items()},
            sides_unit=" s",
        )
    ]


def _first_job() -> float:
    began = time.perf_counter()
    with ours.running() as server, Clients(server.port, connections=1) as clients:
        clients.send(post("/jobs", SUBMISSION), count=1)
        return time.perf_counter() - began


def _import_alone() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import quart_trio"], check=True)
    return time.perf_counter() - began
