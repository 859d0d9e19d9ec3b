"""HandlerRegistry that end at once, for `fuzz_api.py`."""

import msgspec


class Parcel(msgspec.Struct):
    """A payload with a type."""

    to: str
    weight: float
    tags: list[str] = []


async def ship(payload: Parcel) -> int:
    """Take a parcel."""
    return len(payload.to)


async def accept(payload: object) -> object:
    """Take anything."""
    return payload
