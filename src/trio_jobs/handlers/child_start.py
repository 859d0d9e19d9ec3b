"""`ChildStarter`: starts child processes that run the functions as the server would."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

import trio

from trio_jobs.handlers.child_handle import ChildHandle
from trio_jobs.handlers.frames import (
    FileState,
    Function,
    Hello,
    Kind,
    Program,
    Settings,
    frame,
    pack,
)
from trio_jobs.handlers.loaded_files import loaded_files, still_changed
from trio_jobs.handlers.process_group import beyond_standard_streams
from trio_jobs.handlers.start_shortage import ShortageError, StartShortage

# Seconds that a child gets to import its modules before its job counts as blocked.
_IMPORTING_TIME = 10.0

# How many changed files a shortage's text names at most.
_NAMED_FILES = 10


class ChildStarter:
    """Starts children between `open` and `close`.

    Args:
        functions: See `ProcessPool`, as for the others.
        lifespan: The name of each child's lifespan; None for none.
        shortage: Says so while a child takes long to import its modules.
        folder: The folder that children start in; None for the current one at `open`.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        lifespan: str | None,
        shortage: StartShortage,
        folder: int | None,
    ) -> None:
        self._functions = functions
        self._lifespan = lifespan
        self._shortage = shortage
        self._folder = folder
        # Children are started in threads of this limiter: handlers may use up Trio's default one.
        self._starting = trio.CapacityLimiter(1)
        self._files: Mapping[str, FileState] = {}
        self._changed: list[FileState] = []
        self._closing = contextlib.ExitStack()

    def open(self) -> None:
        """Note the folder, and the state of the modules that the server has loaded."""
        self._files = loaded_files()
        if self._folder is None:
            self._folder = open_folder()
            if self._folder is not None:
                self._closing.callback(os.close, self._folder)

    def close(self) -> None:
        """Close the folder."""
        self._closing.close()

    async def start(self, child: ChildHandle) -> None:
        """Start a child, and wait until it has imported the functions; the caller ends it.

        Raises:
            ShortageError: It cannot be started now.
        """
        try:
            await trio.to_thread.run_sync(self._spawn, child, limiter=self._starting)
        except (OSError, MemoryError) as error:
            text = str(error) or type(error).__name__
            raise ShortageError(f"no process can be started: {text}") from error
        except RuntimeError as error:  # from Trio; `_spawn` raises no RuntimeError
            raise ShortageError(f"no thread can be started: {error}") from error
        await self._greet(child)

    async def _greet(self, child: ChildHandle) -> None:
        hello: Hello | None = None
        with trio.move_on_after(_IMPORTING_TIME):
            hello = await child.greet(self._settings())
        if hello is None:  # the imports may take any time, or hang
            cause = f"a process is still importing its modules after {_IMPORTING_TIME:g} s"
            with self._shortage.waiting(cause):
                hello = await child.greet()
        if hello.changed:
            self._changed = [each for each in self._files.values() if each.file in hello.changed]
            raise ShortageError(_code_changed(hello.changed))
        if hello.shortage is not None:
            raise ShortageError(f"a process cannot import the handlers: {hello.shortage}")

    def _spawn(self, child: ChildHandle) -> None:
        # Without this check a child would import everything, and find the same change again.
        if self._changed and still_changed(self._changed):
            raise ShortageError(_code_changed(each.file for each in self._changed))
        child.spawn(folder=self._folder)

    def _settings(self) -> bytes:
        settings = Settings(
            path=sys.path,
            arguments=sys.argv,
            functions=[*self._functions],
            lifespan=self._lifespan,
            program=_program()
            if any(each.name.startswith("__main__:") for each in self._functions)
            else None,
            files=self._files,
            log_level=logging.getLogger().getEffectiveLevel(),
        )
        return frame(Kind.SETTINGS, pack(settings))


def open_folder() -> int | None:
    """A descriptor of the current folder, which stays valid if the folder is moved or removed.

    None if the folder cannot be opened: it has been removed already.
    """
    how = getattr(os, "O_PATH", os.O_RDONLY)  # the folder need not be readable
    try:
        return beyond_standard_streams(os.open(".", how | os.O_DIRECTORY))
    except OSError:
        return None


def _program() -> Program:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return Program(module=None if spec is None else spec.name, file=getattr(main, "__file__", None))


def _code_changed(files: Iterable[str]) -> str:
    named = sorted(set(files))
    more = f" and {len(named) - _NAMED_FILES} more" if len(named) > _NAMED_FILES else ""
    return f"code_changed files={','.join(named[:_NAMED_FILES])}{more}"
