"""SHA-256 of a file, by a plain function, which runs in a thread."""

import hashlib
from pathlib import Path

import msgspec


class File(msgspec.Struct, forbid_unknown_fields=True):
    """The file."""

    path: str


def sha256(file: File) -> dict[str, object]:
    """The file's size and SHA-256."""
    with Path(file.path).open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
        return {"path": file.path, "bytes": opened.tell(), "sha256": digest.hexdigest()}
