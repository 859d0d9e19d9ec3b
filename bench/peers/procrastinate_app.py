"""Procrastinate: a worker and its producers in one process, over psycopg."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import procrastinate

# Connections: its default is four.
_POOL = 20


class Queue:
    def __init__(self, app: procrastinate.App, task: procrastinate.tasks.Task) -> None:
        self._app = app
        self._task = task

    async def submit(self) -> None:
        await self._task.defer_async()

    async def submit_all(self, number: int) -> None:
        await self._task.batch_defer_async(*[{}] * number)

    async def has_unfinished(self) -> bool:
        unfinished = "select from procrastinate_jobs where status in ('todo', 'doing')"
        query = f"select exists ({unfinished})"
        [row] = await self._app.connector.execute_query_all_async(query)
        return bool(row["exists"])


@asynccontextmanager
async def running(url: str, at_a_time: int) -> AsyncIterator[Queue]:
    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=_POOL, max_size=_POOL)
    app = procrastinate.App(connector=connector)

    @app.task(name="empty")
    async def empty() -> None:
        pass

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(concurrency=at_a_time, install_signal_handlers=False)
        )
        yield Queue(app, empty)
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
