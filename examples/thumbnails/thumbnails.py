"""A thumbnail of an image, with Pillow: a plain function that runs in a child process."""

from pathlib import Path
from typing import Annotated

import msgspec
from PIL import Image, ImageOps


class Picture(msgspec.Struct, forbid_unknown_fields=True):
    """The image to scale down, the file for the result, and its largest size."""

    source: str
    target: str
    size: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 128


def thumbnail(picture: Picture) -> dict[str, object]:
    """Write a thumbnail that fits into a square; the target's suffix decides the format."""
    with Image.open(picture.source) as image:
        upright = ImageOps.exif_transpose(image)
        upright.thumbnail((picture.size, picture.size))
        if Path(picture.target).suffix.lower() in {".jpg", ".jpeg"}:
            upright = upright.convert("RGB")
        upright.save(picture.target)
        return {"target": picture.target, "width": upright.width, "height": upright.height}
