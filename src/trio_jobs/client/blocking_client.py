"""`Client`: the methods of `AsyncClient` for programs without an event loop."""

import functools
import inspect
from collections.abc import AsyncIterable, Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from trio_jobs.client.async_client import AsyncClient
from trio_jobs.client.blocking_arrivals import Arrivals, Arriving
from trio_jobs.client.client_loop import ClientLoop
from trio_jobs.client.server_url import server_token, server_url
from trio_jobs.client.thread_items import ThreadItems

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")


def _blocking(
    method: Callable[Concatenate[AsyncClient, _P], Coroutine[Any, Any, _R]],
) -> Callable[Concatenate["Client", _P], _R]:
    """The method of the same name, parameters and text, which waits for that of `AsyncClient`."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return self._loop.call(lambda client: method(client, *args, **kwargs))

    return call


def _arriving(
    method: Callable[Concatenate[AsyncClient, _P], Arriving[_T]],
) -> Callable[Concatenate["Client", _P], Arrivals[_T]]:
    """The method of the same name, parameters and text, which gives `Arrivals`."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: _P.args, **kwargs: _P.kwargs) -> Arrivals[_T]:
        return Arrivals(self._loop, lambda client: method(client, *args, **kwargs))

    return call


def _pulling(
    method: Callable[Concatenate[AsyncClient, _P], Arriving[_T]],
) -> Callable[Concatenate["Client", _P], Arrivals[_T]]:
    """As `_arriving`; the payloads, or jobs, are pulled in a thread of their own."""
    signature = inspect.signature(method)
    name = "payloads" if "payloads" in signature.parameters else "jobs"

    @functools.wraps(method)
    def call(self: "Client", /, *args: _P.args, **kwargs: _P.kwargs) -> Arrivals[_T]:
        bound = signature.bind(None, *args, **kwargs)
        if not isinstance(items := bound.arguments[name], AsyncIterable):
            bound.arguments[name] = ThreadItems(items)
        return Arrivals(self._loop, lambda client: method(client, *bound.args[1:], **bound.kwargs))

    return call


class Client:
    """A client of one server, for programs without an event loop; any number of threads may use it.

    It has the methods of `AsyncClient`, which wait. The requests run in a thread of its own. A
    process that was forked gets a thread, and connections, of its own. Ctrl-C ends a call at once,
    and leaves the job in the server as it is.

    A program that ends need not close it.

    Args:
        url: See `AsyncClient`.
        token: See there.
        retry_for: See there.
        http: Makes the client of httpx that this one uses, and closes.

    Raises:
        ValueError: See there.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        retry_for: float = 60.0,
        http: Callable[[], httpx.AsyncClient] | None = None,
    ) -> None:
        # Not in the first call: the environment is that of now, and so are the errors.
        url, token = server_url(url), server_token(token)
        self._loop = ClientLoop(lambda: _make(url, token, retry_for, http))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Calls of other threads end with a RuntimeError."""
        self._loop.close()

    submit = _blocking(AsyncClient.submit)
    submit_many = _blocking(AsyncClient.submit_many)
    get = _blocking(AsyncClient.get)
    wait = _blocking(AsyncClient.wait)
    result = _blocking(AsyncClient.result)
    run = _blocking(AsyncClient.run)
    cancel = _blocking(AsyncClient.cancel)
    as_completed = _arriving(AsyncClient.as_completed)
    map = _pulling(AsyncClient.map)
    stream = _pulling(AsyncClient.stream)


def _make(
    url: str, token: str, retry_for: float, http: Callable[[], httpx.AsyncClient] | None
) -> AsyncClient:
    made = None if http is None else http()
    return AsyncClient(url, token=token, retry_for=retry_for, http=made)
