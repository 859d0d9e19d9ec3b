"""PGQueuer: a worker and its producers in one process, over asyncpg."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer import AsyncpgPoolDriver, Job, Queries, QueueManager

# Connections; it has no default of its own.
_POOL = 20


class Queue:
    def __init__(self, pool: asyncpg.Pool, queries: Queries) -> None:
        self._pool = pool
        self._queries = queries

    async def submit(self) -> None:
        await self._queries.enqueue("empty", None)

    async def submit_all(self, number: int) -> None:
        await self._queries.enqueue(["empty"] * number, [None] * number, [0] * number)

    async def unfinished(self) -> int:
        return int(await self._pool.fetchval("select count(*) from pgqueuer"))


@asynccontextmanager
async def running(url: str) -> AsyncIterator[Queue]:
    async with asyncpg.create_pool(url, min_size=_POOL, max_size=_POOL) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        await queries.install()
        manager = QueueManager(Queries(AsyncpgPoolDriver(pool)))

        @manager.entrypoint("empty")
        async def empty(job: Job) -> None:
            pass

        # Its default of ten would give it less than it can do.
        worker = asyncio.create_task(manager.run(batch_size=100))
        yield Queue(pool, queries)
        manager.shutdown.set()
        await worker
