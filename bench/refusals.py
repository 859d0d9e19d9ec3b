"""Row 14: the jobs that a full buffer refuses while nothing but the jobs keeps the server busy."""

import time
from itertools import repeat, takewhile

from bench import ours
from bench.load import CONNECTIONS, Clients, post
from bench.measuring import Spread
from bench.row import Result, Row, at_most
from bench.workload import SUBMISSION


def measure(*, seconds: float = 2, turns: int = 3) -> list[Result]:
    """Measure the row.

    Args:
        seconds: The length of a turn.
        turns: How many turns are measured.
    """
    values = []
    settings = ours.Settings(workers=1, buffer_size=100)
    with ours.running(settings) as server, Clients(server.port) as clients:
        for _ in range(turns):
            end = time.monotonic() + seconds
            requests = repeat(post("/jobs", SUBMISSION))
            until_end = takewhile(lambda _, end=end: time.monotonic() < end, requests)  # type: ignore[misc]
            answers = clients.send(until_end, may_be_refused=True)
            values.append(answers.refused / len(answers.delays) * 100)
    return [
        Row(
            number=14,
            what="`POST /jobs` refused with 429: one worker, a buffer of 100, an empty handler",
            against=f"all requests on {CONNECTIONS} connections, over {turns * seconds:.0f} s",
            figure=Spread.of(values),
            reach=at_most(0, " %"),
            unit=" %",
        )
    ]
