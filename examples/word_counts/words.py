"""Counting the words of a folder's text files, all at once, in the job's own nursery.

A file that cannot be read fails the job, and stops the counting of all others; so do the time
limit, a cancel and the server's stop. No child is ever left over.
"""

import re
from collections import Counter
from pathlib import Path

import msgspec
import trio

from trio_jobs import JobContext

_WORD = re.compile(r"[^\W\d_]+")

# Files that are read at the same time, by as many threads.
_READERS = 8


class Folder(msgspec.Struct, forbid_unknown_fields=True):
    """Which folder, and how many of its commonest words to return."""

    path: str
    top: int = 10


async def count_words(folder: Folder, context: JobContext) -> dict[str, object]:
    """Count the words in all ``*.txt`` files of a folder and of those below it."""
    paths = await trio.to_thread.run_sync(_text_files, folder.path)
    readers = trio.CapacityLimiter(_READERS)
    send, receive = trio.open_memory_channel[Counter[str]](0)
    async with send:
        for path in paths:
            context.nursery.start_soon(_count, path, readers, send.clone())
    totals: Counter[str] = Counter()
    async for counts in receive:  # until every child has closed its end
        totals.update(counts)
    return {
        "files": len(paths),
        "words": totals.total(),
        "top": dict(totals.most_common(folder.top)),
    }


async def _count(
    path: Path, readers: trio.CapacityLimiter, send: trio.MemorySendChannel[Counter[str]]
) -> None:
    async with send:
        # Counting computes; it is done in the thread that reads.
        await send.send(await trio.to_thread.run_sync(_count_file, path, limiter=readers))


def _text_files(folder: str) -> list[Path]:
    if not Path(folder).is_dir():
        raise NotADirectoryError(folder)
    return sorted(path for path in Path(folder).rglob("*.txt") if path.is_file())


def _count_file(path: Path) -> Counter[str]:
    with path.open(encoding="utf-8") as file:
        return Counter(word.lower() for line in file for word in _WORD.findall(line))
