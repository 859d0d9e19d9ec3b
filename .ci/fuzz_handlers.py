"""HandlerRegistry that end at once, for `fuzz_api.py`."""

from typing import Annotated

import msgspec
from pydantic import BaseModel, ConfigDict, Field


class Parcel(msgspec.Struct):
    """A payload with a type."""

    to: str
    weight: float
    tags: list[str] = []


class Email(BaseModel):
    """A payload of Pydantic's; strict, because others take more than their schema says."""

    model_config = ConfigDict(strict=True, extra="forbid")

    to: str = Field(min_length=1, max_length=100)
    copies: list[str] = Field(default=[], alias="copiesTo", max_length=3)


def send(email: Email, urgent: bool = False, *, parcel: Parcel | None = None) -> list[str]:
    """Take an email and more."""
    return [email.to] * (1 + urgent) + ([] if parcel is None else parcel.tags)


def count(*, limit: Annotated[float, msgspec.Meta(ge=0, le=10)] = 3, _offset: int = 0) -> float:
    """Take a number."""
    return limit + _offset


def tidy() -> None:
    """Take nothing."""


async def ship(payload: Parcel) -> int:
    """Take a parcel."""
    return len(payload.to)


async def accept(payload: object) -> object:
    """Take anything."""
    return payload
