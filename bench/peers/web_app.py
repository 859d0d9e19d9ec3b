"""A queue behind FastAPI: what a team writes whose clients submit jobs over HTTP."""

import importlib
import inspect
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

_peer = importlib.import_module(os.environ["BENCH_PEER"])


@asynccontextmanager
async def _connected(_: FastAPI) -> AsyncIterator[None]:
    if hasattr(_peer, "connect"):
        await _peer.connect()
    yield


app = FastAPI(lifespan=_connected)

if inspect.iscoroutinefunction(_peer.submit):

    @app.post("/jobs", status_code=201)
    async def submit(job: dict[str, object]) -> dict[str, object]:
        await _peer.submit()
        return {"type": job["type"], "status": "pending"}

else:

    @app.post("/jobs", status_code=201)
    def submit_in_thread(job: dict[str, object]) -> dict[str, object]:
        _peer.submit()
        return {"type": job["type"], "status": "pending"}
