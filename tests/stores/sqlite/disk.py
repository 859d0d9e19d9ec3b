"""A disk between SQLite and the file system: it records, fails, hangs, and loses power.

It is a VFS of apsw, which brings an SQLite of its own. Nothing on it waits for a real disk.
"""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, cast

import apsw

# What a disk writes as a whole, in bytes.
SECTOR: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something that SQLite did to a file."""

    kind: Literal["write", "truncate", "sync", "delete"]
    file: str
    offset: int = 0  # or the new size
    data: bytes = b""


class Disk(apsw.VFS):
    """Records the operations on files; needs a name that no other disk has.

    Attributes:
        operations: All so far.
        before: Called before each operation; may raise one of apsw's errors, or wait.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.operations: list[Operation] = []
        self.before: Callable[[Operation], None] = _nothing

    def connect(self, name: str) -> sqlite3.Connection:
        """Open a connection that looks like one of the standard library's, as far as we use it."""
        flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE
        with _errors():
            return cast("sqlite3.Connection", _Connection(apsw.Connection(name, flags, self.name)))

    def note(self, operation: Operation) -> None:
        """An operation begins."""
        self.before(operation)
        self.operations.append(operation)

    def xOpen(  # noqa: N802
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        # SQLite does not mind if there is no such file, but apsw would raise the error later.
        if Path(filename).exists():
            self.note(Operation(kind="delete", file=Path(filename).name))
            super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        assert path is not None
        self._disk = disk
        self._name = Path(path).name
        super().__init__("", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: ANN401, N802
        self._disk.note(Operation(kind="write", file=self._name, offset=offset, data=bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.note(Operation(kind="truncate", file=self._name, offset=newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.note(Operation(kind="sync", file=self._name))


class _Connection:
    """apsw's connection with the methods and the errors of the standard library's."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> "_Rows":
        with _errors():
            return _Rows(list(self._connection.execute(sql, tuple(parameters))))

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        with _errors():
            self._connection.executemany(sql, [tuple(each) for each in parameters])

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def close(self) -> None:
        # SQLite closes whatever happens, but apsw raises what the VFS has raised meanwhile.
        with suppress(apsw.Error):
            self._connection.close()


class _Rows(list[Any]):
    def fetchone(self) -> Any:  # noqa: ANN401
        return self[0] if self else None

    def fetchall(self) -> list[Any]:
        return self


class _errors:  # noqa: N801
    """Turns apsw's errors into those of the standard library."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, type_: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, apsw.Error):
            code = int(vars(error)["extendedresult"])
            integrity = code & 0xFF == sqlite3.SQLITE_CONSTRAINT
            kind = sqlite3.IntegrityError if integrity else sqlite3.OperationalError
            found = kind(str(error))
            found.sqlite_errorcode = code
            raise found from error


def failure(code: int) -> apsw.Error:
    """What an operation raises, so that SQLite gets this code."""
    return cast("apsw.Error", apsw.exception_for(code))


Unsynced = Literal["none", "all", "some"]


def power_cuts(
    files: dict[str, bytes],
    operations: Sequence[Operation],
    unsynced: Callable[[int], Sequence[Unsynced]],
) -> Iterator[tuple[int, Unsynced, dict[str, bytes]]]:
    """The files that are left if the power fails, for each number of operations before that.

    What was synced is there. Of the other writes there are none, all, or some: each sector by
    itself, since a disk writes them in any order.

    Args:
        files: Those that are there before.
        operations: What SQLite does.
        unsynced: For the number of operations before the cut, which cases to make.

    Yields:
        The number of operations, what is there of those that were not synced, and the files.
    """
    synced = {name: bytearray(content) for name, content in files.items()}
    pending: dict[str, list[Operation]] = {}
    for number, operation in enumerate([*operations, None]):
        for which in unsynced(number):
            chance = Random(number)  # noqa: S311
            left = {}
            for name in synced.keys() | pending.keys():
                content = synced.get(name, bytearray()).copy()
                for each in pending.get(name, []):
                    for part in _sectors(each):
                        if which == "all" or (which == "some" and chance.random() < 0.5):
                            _apply(content, part)
                left[name] = bytes(content)
            yield number, which, left
        if operation is None:
            return
        name = operation.file
        if operation.kind == "delete":
            synced.pop(name, None)
            pending.pop(name, None)
        elif operation.kind == "sync":
            content = synced.setdefault(name, bytearray())
            for each in pending.pop(name, []):
                _apply(content, each)
        else:
            pending.setdefault(name, []).append(operation)


def _sectors(operation: Operation) -> Iterator[Operation]:
    if operation.kind != "write":
        yield operation
        return
    begin, end = operation.offset, operation.offset + len(operation.data)
    while begin < end:
        next_ = min(end, (begin // SECTOR + 1) * SECTOR)
        data = operation.data[begin - operation.offset : next_ - operation.offset]
        yield Operation(kind="write", file=operation.file, offset=begin, data=data)
        begin = next_


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.kind == "truncate":
        del content[operation.offset :]
        return
    missing = operation.offset - len(content)
    if missing > 0:
        content.extend(bytes(missing))
    content[operation.offset : operation.offset + len(operation.data)] = operation.data


def _nothing(operation: Operation) -> None:
    pass
