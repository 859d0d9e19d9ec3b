"""FastAPI's own BackgroundTasks: the web server runs them and keeps nothing of them."""

from fastapi import BackgroundTasks, FastAPI

from bench.peers import tally

app = FastAPI()


async def empty() -> None:
    tally.count()


@app.post("/jobs", status_code=201)
async def submit(job: dict[str, object], background: BackgroundTasks) -> dict[str, object]:
    background.add_task(empty)
    return {"type": job["type"], "status": "pending"}
