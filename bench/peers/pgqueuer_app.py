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

    async def has_unfinished(self) -> bool:
        return bool(await self._pool.fetchval("select exists (select from pgqueuer)"))


@asynccontextmanager
async def running(url: str, at_a_time: int) -> AsyncIterator[Queue]:
    async with asyncpg.create_pool(url, min_size=_POOL, max_size=_POOL) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        await queries.install()
        manager = QueueManager(Queries(AsyncpgPoolDriver(pool)))

        @manager.entrypoint("empty")
        async def empty(job: Job) -> None:
            pass

        # Both how many jobs it fetches and runs at a time, and how many ends it records together.
        worker = asyncio.create_task(manager.run(batch_size=at_a_time))
        yield Queue(pool, queries)
        manager.shutdown.set()
        await worker
