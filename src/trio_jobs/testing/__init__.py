"""Helpers for tests of handlers.

Pytest finds the plugin, `trio_jobs.testing.plugin`, by itself, and with it imports this package in
every project. So each name is imported at its first use, as in `trio_jobs`.
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

__all__ = [*_MODULES]


if not TYPE_CHECKING:  # a type checker would believe that every name is here

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            return getattr(import_module(f"trio_jobs.testing.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
