"""What each application, client and version number would be made of anew, and is made once."""

import functools
import os
from collections.abc import Callable
from importlib import metadata
from ssl import SSLContext
from typing import Any

from httpx._transports import default
from werkzeug.routing import Rule


def make_once() -> None:
    """Keep the compiled routes of applications, the package's version, clients' certificates."""
    metadata.version = functools.cache(metadata.version)
    # Each client of httpx would read the certificates of the authorities anew.
    create_ssl_context = default.create_ssl_context  # type: ignore[attr-defined]

    @functools.cache
    def create_once(_file: str | None, _folder: str | None, **arguments: Any) -> SSLContext:  # noqa: ANN401
        context: SSLContext = create_ssl_context(**arguments)
        return context

    def create(**arguments: Any) -> SSLContext:  # noqa: ANN401
        variables = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
        return create_once(*variables, **arguments)

    default.create_ssl_context = create  # type: ignore[assignment, attr-defined]
    compile_builder = Rule._compile_builder

    def compile_once(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        if rule.defaults:
            return compile_builder(rule, append_unknown)
        key = rule.rule, tuple(rule._trace), append_unknown
        if key not in builders:
            builders[key] = compile_builder(rule, append_unknown)
        return builders[key]

    builders: dict[object, Callable[..., tuple[str, str]]] = {}
    Rule._compile_builder = compile_once  # type: ignore[assignment, method-assign]
