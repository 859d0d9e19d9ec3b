"""For those who test their handlers: what the pytest plugin gives to tests, and tests import.

The plugin itself, `trio_jobs.testing.plugin`, needs no import: pytest finds it.
As in `trio_jobs`, what has a name here is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_jobs.testing.asgi_client import Answer as Answer
    from trio_jobs.testing.asgi_client import Client as Client
    from trio_jobs.testing.asgi_client import OpenRequest as OpenRequest
    from trio_jobs.testing.steps import Attempt as Attempt
    from trio_jobs.testing.steps import cancelled_at_each_step as cancelled_at_each_step

_MODULES = {
    "Answer": "asgi_client",
    "Attempt": "steps",
    "Client": "asgi_client",
    "OpenRequest": "asgi_client",
    "cancelled_at_each_step": "steps",
}

__all__ = ["Answer", "Attempt", "Client", "OpenRequest", "cancelled_at_each_step"]


if not TYPE_CHECKING:  # or else a type checker would take any name for one that is there

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return getattr(import_module(f"trio_jobs.testing.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
