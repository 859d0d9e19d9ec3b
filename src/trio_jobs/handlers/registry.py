"""The table of handlers: which one processes a job of which type."""

import time
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

import msgspec

from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.importing import HandlerError, own_name
from trio_jobs.handlers.payload_type import PayloadSchemas, make_schemas

# The entry for every type that has none of its own.
DEFAULT = "default"

# Seconds: shorter checks are not counted.
_COUNTED = 0.0005

# Characters: a client's type may be as long as a body.
_MAX_ALIKE = 200


class UnknownTypeError(Exception):
    """No handler for this job type.

    Attributes:
        types: The types that have one.
    """

    def __init__(self, type: str, types: tuple[str, ...]) -> None:  # noqa: A002
        known = ", ".join(repr(name) for name in types) or "none"
        text = f"no handler for type {type[:100]!r}; known types: {known}"
        alike = [name for name in types if _look_alike(name, type)]
        if alike:
            text += f"; {type!a} only looks like {alike[0]!a}"
        super().__init__(text)
        self.types = types


def _look_alike(one: str, other: str) -> bool:
    """Whether two texts have the same letters, composed in different ways."""
    if max(len(one), len(other)) > _MAX_ALIKE:
        return False
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


class HandlerRegistry:
    """Handlers by job type.

    Args:
        table: A handler for each type; the one named ``default``, if there is
            one, is used for every type that has no entry of its own.
    """

    def __init__(self, table: Mapping[str, Handler]) -> None:
        self.table = MappingProxyType(dict(table))
        self._default = table.get(DEFAULT)
        # By the handler's name; `check_payload` writes, `BlockingMonitor` takes.
        self._check_seconds: dict[str, float] = {}

    @classmethod
    def of(cls, functions: Mapping[str, object]) -> Self:
        """The table for functions by job type, and for those that are handlers already.

        Raises:
            HandlerError: One cannot be a handler, or what it is for is no type;
                the text says which.
        """
        return cls({name: _handler_for(name, each) for name, each in functions.items()})

    def find(self, type: str) -> Handler:  # noqa: A002  (the field's name)
        """The handler for jobs of this type.

        Raises:
            UnknownTypeError: There is none, and no default.
        """
        handler = self.table.get(type, self._default)
        if handler is None:
            raise UnknownTypeError(type, tuple(sorted(self.table)))
        return handler

    def check_payload(self, handler: Handler, payload: bytes) -> None:
        """Make a payload for the handler, to see whether it can be made: its class's code runs.

        Raises:
            msgspec.MsgspecError: It cannot; or UnicodeError.
        """
        began = time.perf_counter()
        try:
            handler.decode(payload)
        finally:
            seconds = time.perf_counter() - began
            if seconds >= _COUNTED:
                before = self._check_seconds.get(handler.name, 0.0)
                self._check_seconds[handler.name] = before + seconds

    def take_check_seconds(self) -> Mapping[str, float]:
        """What `check_payload` has taken since this was called last, by the handler's name."""
        taken, self._check_seconds = self._check_seconds, {}
        return taken

    @property
    def process_names(self) -> list[str]:
        """The names of those that run in a child process."""
        return [each.name for each in self.table.values() if each.run is Run.PROCESS]

    def schemas(self, *, ref_template: str = "#/$defs/{name}") -> PayloadSchemas:
        """The JSON schema of each type's payload.

        Args:
            ref_template: How a schema refers to one of the components, given
                its name.
        """
        types = {name: handler.payload_type for name, handler in self.table.items()}
        return make_schemas(types, ref_template=ref_template)


def _handler_for(type_: object, function: object) -> Handler:
    if not isinstance(type_, str):
        raise HandlerError(f"a job type must be a string, got {type_!r}")
    if isinstance(function, Handler):
        return function
    try:
        return Handler.of(function)
    except HandlerError as error:
        which = f" ({own_name(function)})" if callable(function) else ""
        raise HandlerError(f"the function for type {type_!r}{which} {error}") from error


def describe_payloads(handlers: HandlerRegistry) -> str:
    """What payload each type takes, as JSON Schema, in comment lines of a TOML file."""
    schemas = handlers.schemas()
    lines = ["", "# The payload of each type, as JSON Schema:"]
    lines += [f"# {_json(name)} = {_json(schema)}" for name, schema in schemas.types.items()]
    lines += [f"# #/$defs/{name} = {_json(each)}" for name, each in schemas.components.items()]
    return "\n".join(lines) + "\n"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
