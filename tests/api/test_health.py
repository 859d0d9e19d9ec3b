"""`GET /health` and `GET /health/ready`."""

from tests.api.support import SUBMISSION, Api
from tests.support import SUCCEEDED, make_parts
from trio_jobs import Outcome


async def test_health_says_that_the_event_loop_is_alive() -> None:
    api = Api()
    api.parts.admission.close()

    answer = await api.client.get("/health")

    assert (answer.status, answer.json()) == (200, {"status": "ok"})


async def test_ready_says_what_the_pool_is_doing() -> None:
    api = Api()
    await api.client.post("/jobs", SUBMISSION)

    answer = await api.client.get("/health/ready")

    assert answer.status == 200
    assert answer.json() == {
        "status": "ready",
        "intake": "open",
        "paused": [],
        "workers": 2,
        "leaving": 0,
        "busy": 0,
        "buffered": 1,
        "buffer_size": 100,
        "peak_buffered": 1,
        "pending": 1,
        "waiting": 0,
        "held": 0,
        "kept": 0,
        "max_kept": 20_000,
        "oldest_running_seconds": None,
        "blocked": None,
        "dropped": dict.fromkeys(Outcome, 0),
    }


async def test_ready_counts_the_jobs_that_were_dropped_by_outcome() -> None:
    api = Api(parts=make_parts(keep_completed=0))
    job_id = (await api.client.post("/jobs", SUBMISSION)).json()["id"]
    api.parts.workers.claim(job_id)
    api.parts.workers.complete(job_id, SUCCEEDED)

    answer = await api.client.get("/health/ready")

    dropped = dict.fromkeys(Outcome, 0) | {"succeeded": 1}
    assert answer.json()["dropped"] == dropped


async def test_a_full_buffer_is_ready() -> None:
    api = Api(parts=make_parts(buffer_size=1))
    await api.client.post("/jobs", SUBMISSION)

    assert (await api.client.get("/health/ready")).status == 200


async def test_a_server_that_shuts_down_is_not_ready_and_says_what_it_does() -> None:
    api = Api()
    api.parts.admission.close()

    answer = await api.client.get("/health/ready")

    assert answer.status == 503
    assert answer.json()["status"] == "shutting down"
    assert answer.json()["workers"] == 2
