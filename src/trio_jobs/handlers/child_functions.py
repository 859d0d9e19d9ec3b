"""`ChildFunctions`: imports the handlers' functions, as the server has; in the child process."""

import contextlib
import runpy
import sys
import types
from collections.abc import Callable, Iterator

from trio_jobs.error_text import Failure, describe
from trio_jobs.handlers.child_lifespan import ChildLifespan
from trio_jobs.handlers.context import JobContext
from trio_jobs.handlers.frames import Call, Function, Hello, Program, Settings
from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.importing import (
    HandlerError,
    find_shortage,
    imports_in_child,
    load_function,
    one_line,
)
from trio_jobs.handlers.loaded_files import SameModules, changed_files
from trio_jobs.handlers.opening_errors import LifespanError
from trio_jobs.handlers.progress_report import ProgressReport

# The place of a lifespan among the faults; no module has this name.
_LIFESPAN = "[lifespan]"


class ChildFunctions:
    """The handlers by name.

    A failed import is not tried again: with the module half imported, it would fail in another way.

    Args:
        settings: What the server says.

    Attributes:
        lifespan: What the jobs share.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._handlers: dict[Function, Handler] = {}
        self._faults: dict[str, Failure] = {}  # by the name of a module or a function
        self._shortage: str | None = None
        self._changed: list[str] = []
        self.lifespan = ChildLifespan()
        sys.path[:] = settings.path
        SameModules(settings.files).install()
        sys.argv[:] = settings.arguments

    def load(self) -> None:
        """Import all functions, and enter the lifespan. No job's time limit runs meanwhile."""
        token = imports_in_child.set(True)
        try:
            if self._settings.program is not None:
                fault = _load_program(self._settings.program)
                if fault is not None:
                    self._note("__main__", fault)
            for function in self._settings.functions:
                self.find(function)
            with self._noting_lifespan():
                if self._settings.lifespan is not None:
                    self.lifespan.load(self._settings.lifespan)
        finally:
            imports_in_child.reset(token)
        self._changed = changed_files(self._settings.files, loaded_only=not self._faults)
        if not self._changed:
            with self._noting_lifespan():
                self.lifespan.enter()

    def hello(self) -> Hello:
        """The result of `load`."""
        return Hello(
            changed=self._changed,
            shortage=self._shortage,
            faulty=bool(self._faults),
        )

    def find(self, function: Function) -> Handler | Failure:
        """The handler of this function, or the failure of its import."""
        name = function.name
        module, _, _ = name.partition(":")
        known = (
            self._faults.get(_LIFESPAN)
            or self._handlers.get(function)
            or self._faults.get(name)
            or self._faults.get(module)
        )
        if known is not None:
            return known
        try:
            handler = Handler.of(
                load_function(name), run=Run.PROCESS, spread=function.spread, name=name
            )
        except BaseException as error:  # noqa: ASYNC103, BLE001 - a user's module
            return self._note(name if module in sys.modules else module, error)  # noqa: ASYNC104 - no event loop
        self._handlers[function] = handler
        return handler

    def context_of(
        self, call: Call, report: Callable[[ProgressReport], None]
    ) -> JobContext[object]:
        """The context of a job, which reports its progress by ``report``."""
        return JobContext(
            id=call.job_id,
            type=call.job_type,
            submitted_at=call.submitted_at,
            attempt=call.attempt,
            last_attempt=call.last_attempt,
            state=self.lifespan.state,
            _report=report,
        )

    @contextlib.contextmanager
    def _noting_lifespan(self) -> Iterator[None]:
        try:
            yield
        except LifespanError as error:
            self._note(_LIFESPAN, error)

    def _note(self, key: str, error: BaseException) -> Failure:
        self._shortage = self._shortage or find_shortage(error)
        self._faults[key] = describe(error)
        return self._faults[key]


def _load_program(program: Program) -> HandlerError | None:
    """Run the program's file under another name than ``__main__``, as multiprocessing does.

    Returns:
        The fault; None if there is none.
    """
    try:
        if program.module is not None:
            content = runpy.run_module(program.module, run_name="__mp_main__", alter_sys=True)
        elif program.file is not None:
            content = runpy.run_path(program.file, run_name="__mp_main__")
        else:
            return HandlerError("is defined in a program that has no file")
    except BaseException as error:  # noqa: ASYNC103, BLE001 - the user's program
        fault = HandlerError(f"the program could not be imported: {one_line(error)}")
        fault.__cause__ = error
        return fault  # noqa: ASYNC104 - there is no event loop here
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(content)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return None
