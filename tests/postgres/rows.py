"""Jobs that tests write into a database as rows."""

from collections.abc import Sequence

from tests.postgres.databases import Database
from trio_jobs.stores.postgres.trio_connection import connect

Row = dict[str, object]


async def insert(database: Database, rows: Sequence[Row]) -> None:
    """Write rows of the table of jobs; what a row leaves out is the default."""
    async with await connect(database.url, name="test") as connection, connection.pipeline():
        for row in rows:
            marks = ", ".join(f"%({name})s" for name in row)
            text = f"insert into trio_jobs.jobs ({', '.join(row)}) values ({marks})"  # noqa: S608
            await connection.execute(text, row)
