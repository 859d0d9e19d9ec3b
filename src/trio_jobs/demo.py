"""A handler to try the server with."""

import trio


async def simulate_work(payload: object) -> dict[str, object]:
    """Simulate one second of work; returns what it was given."""
    await trio.sleep(1)
    return {"echo": payload}
