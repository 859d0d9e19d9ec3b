"""Plain functions with Pydantic's payloads, for child processes."""

import sys
from typing import Annotated

from pydantic import BaseModel, Field


class Parcel(BaseModel):
    """A payload."""

    to: str = Field(alias="recipient")
    weight: float


class Label(BaseModel):
    """A result."""

    text: str = Field(alias="theText")


def label(parcel: Parcel, copies: Annotated[int, Field(gt=0)] = 1) -> list[Label]:
    """Write the label so often."""
    return [Label(theText=f"{parcel.to}, {parcel.weight} kg")] * copies


def has_trio(_parcel: Parcel) -> bool:
    return "trio" in sys.modules
