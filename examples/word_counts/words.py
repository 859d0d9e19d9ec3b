"""Counts the words of a folder's text files, all at once, in the job's own nursery.

An unreadable file fails the job and ends the tasks of all other files. The time limit, a cancel and
the server's stop end them too.
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
    """The folder, and the number of its commonest words to return."""

    path: str
    top: int = 10


async def count_words(folder: Folder, context: JobContext) -> dict[str, object]:
    """Count the words in all ``*.txt`` files of a folder and its subfolders."""
    paths = await trio.to_thread.run_sync(_text_files, folder.path)
    readers = trio.CapacityLimiter(_READERS)
    send, receive = trio.open_memory_channel[Counter[str]](0)
    async with send:
        for path in paths:
            context.nursery.start_soon(_count, path, readers, send.clone())
    totals: Counter[str] = Counter()
    files = 0
    async for counts in receive:  # until each task has closed its end
        totals.update(counts)
        files += 1
        context.progress(files, len(paths), "files are counted")
    return {
        "files": len(paths),
        "words": totals.total(),
        "top": dict(totals.most_common(folder.top)),
    }


async def _count(
    path: Path, readers: trio.CapacityLimiter, send: trio.MemorySendChannel[Counter[str]]
) -> None:
    async with send:
        # Counting computes, so the reading thread does it.
        await send.send(await trio.to_thread.run_sync(_count_file, path, limiter=readers))


def _text_files(folder: str) -> list[Path]:
    if not Path(folder).is_dir():
        raise NotADirectoryError(folder)
    return sorted(path for path in Path(folder).rglob("*.txt") if path.is_file())


def _count_file(path: Path) -> Counter[str]:
    with path.open(encoding="utf-8") as file:
        return Counter(word.lower() for line in file for word in _WORD.findall(line))
