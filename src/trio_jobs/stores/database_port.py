"""What `SharedStore` needs of its database, beside the rounds: readers, and single requests."""

from collections.abc import Mapping
from typing import Any, Protocol


class ReadersPort(Protocol):
    """Reads the database; see `stores.postgres.readers`."""

    async def fetch(self, sql: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """The rows of a statement that only reads: they are committed.

        Raises:
            StoreUnavailableError: The database has not answered in time.

        Cancellation:
            Ends the statement.
        """


class RequestsPort(Protocol):
    """Writes to the database beside the rounds; see `stores.postgres.pump`."""

    async def request(self, sql: str, params: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """The rows of a statement that was carried out between two rounds, and is committed.

        It is carried out at least once: again if the connection is lost meanwhile.

        Raises:
            StoreWriteError: The database refuses to write; nothing has changed.

        Cancellation:
            The statement is carried out all the same.
        """
