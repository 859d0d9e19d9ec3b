"""`Lifespan`: a context manager around all jobs of one place; what it yields is their state."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Self

from trio_jobs.handlers.handler import Run
from trio_jobs.handlers.importing import HandlerError, importable_name, one_line, own_name
from trio_jobs.handlers.opening_errors import LifespanError


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifespan:
    """A function that makes a context manager, and where it is entered.

    Attributes:
        place: Where it is entered: where the handlers run that get its state.
        function: Called without arguments. On Trio and asyncio it makes an async context manager,
            for threads and processes a plain one.
        name: The function's name, by which a child process imports it.
        key: The name of the place in the configuration.
    """

    place: Run
    function: Callable[[], Any]
    name: str
    key: str

    @classmethod
    def of(
        cls, function: object, *, key: str, async_handlers: str = "trio", name: str | None = None
    ) -> Self:
        """Check a function.

        Args:
            function: The function.
            key: The place, or ``"async"`` for what ``async_handlers`` says.
            async_handlers: Where async handlers run.
            name: The name that the function was loaded by; None for its own name.

        Raises:
            HandlerError: There is no such place, or the function is no such function.
        """
        try:
            place = Run(async_handlers if key == "async" else key)
        except ValueError:
            known = ", ".join(repr(str(each)) for each in ["async", *Run])
            raise HandlerError(f"belongs to one of {known}, got {key!r}") from None
        if not callable(function):
            raise HandlerError(f"is not callable: {function!r}")
        _check_kind(function, is_async=place in (Run.TRIO, Run.ASYNCIO))
        _check_parameters(function)
        if name is None:
            name = importable_name(function) if place is Run.PROCESS else own_name(function)
        return cls(place=place, function=function, name=name, key=key)

    @contextmanager
    def opening(self, *, passing: type[BaseException] = KeyboardInterrupt) -> Iterator[None]:
        """A block that opens it; an error becomes a `LifespanError` of one line.

        Args:
            passing: An error that passes through, as KeyboardInterrupt does.
        """
        try:
            yield
        except (passing, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit, for one
            text = f"lifespan.{self.key} = {self.name!r}: {one_line(error)}"
            raise LifespanError(text) from error  # noqa: ASYNC104 - Cancelled has passed

    def make_async(self) -> AbstractAsyncContextManager[object]:
        """Call the function of an async place; raises what the user's code raises."""
        made = self.function()
        if not isinstance(made, AbstractAsyncContextManager):
            raise TypeError(f"must return an async context manager, got {made!r:.200}")
        return made

    def make_plain(self) -> AbstractContextManager[object]:
        """Call the function of another place; raises what the user's code raises."""
        made = self.function()
        if not isinstance(made, AbstractContextManager):
            raise TypeError(f"must return a context manager that is not async, got {made!r:.200}")
        return made


def _check_kind(function: Callable[..., Any], *, is_async: bool) -> None:
    """Refuse what would only fail once it is called, or not even then."""
    if inspect.iscoroutinefunction(function):
        raise HandlerError("is a coroutine function, which makes no context manager")
    for kind, decorator in (
        (inspect.isgeneratorfunction, "contextmanager"),
        (inspect.isasyncgenfunction, "asynccontextmanager"),
    ):
        if kind(function):
            raise HandlerError(f"is a generator function: decorate it with contextlib.{decorator}")
        if kind(inspect.unwrap(function)) and (kind is inspect.isasyncgenfunction) is not is_async:
            needed = "an async" if is_async else "a plain"
            raise HandlerError(
                f"makes {'a plain' if is_async else 'an async'} context manager; the"
                f" place needs {needed} one"
            )


def _check_parameters(function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins have no signature
        return
    try:
        signature.bind()
    except TypeError as error:
        raise HandlerError(f"must take no arguments: {error}") from error
