"""Calls a webhook with httpx: an async function with a time limit."""

from typing import Annotated

import httpx
import msgspec


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """An event and its receiver."""

    url: Annotated[str, msgspec.Meta(pattern="^https?://")]
    event: dict[str, object]


async def call_webhook(call: Call) -> dict[str, object]:
    """POST the event; an answer other than 2xx fails the job."""
    async with httpx.AsyncClient(timeout=None) as client:  # noqa: S113  (the job has a time limit)
        answer = await client.post(call.url, json=call.event)
    answer.raise_for_status()
    return {"status": answer.status_code, "seconds": answer.elapsed.total_seconds()}
