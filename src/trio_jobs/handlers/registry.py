"""`HandlerRegistry`: the handler of each job type, and the one check of a submitted payload."""

import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Self

import msgspec

from trio_jobs.handlers.frames import Function
from trio_jobs.handlers.handler import Handler, Run
from trio_jobs.handlers.importing import HandlerError, own_name
from trio_jobs.handlers.lifespan import Lifespan
from trio_jobs.handlers.payload_schemas import PayloadSchemas, make_schemas
from trio_jobs.handlers.value_type import decode_anything

# The entry for each type that has no entry of its own.
DEFAULT = "default"

# Shorter checks of payloads, in seconds, are not counted.
_COUNTED = 0.0005

# Longer texts, in characters, are not compared: a client's type may be as long as a body.
_MAX_ALIKE = 200


class UnknownTypeError(Exception):
    """No handler for this job type.

    Attributes:
        types: The types that have a handler.
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
        table: A handler for each type. The entry ``default`` is used for each type without an
            entry.
        lifespans: At most one for each place, where a handler runs.

    Attributes:
        table: The same handlers, read-only.
        lifespans: The lifespans.
        hides: Whether a handler hides parts of payloads and results.

    Raises:
        HandlerError: There is more than one lifespan for a place, or one for a place where no
            handler runs.
    """

    def __init__(self, table: Mapping[str, Handler], *, lifespans: Iterable[Lifespan] = ()) -> None:
        self.table = MappingProxyType(dict(table))
        self.lifespans = tuple(lifespans)
        _check_lifespans(self.lifespans, self.places)
        self._default = table.get(DEFAULT)
        self.hides = any(each.hide for each in table.values())
        self._check_seconds: dict[str, float] = {}  # by the handler's name

    @classmethod
    def of(
        cls,
        functions: Mapping[str, object],
        *,
        async_handlers: str = "trio",
        lifespan: Mapping[str, object] | None = None,
    ) -> Self:
        """Make a registry of functions and handlers by job type.

        Args:
            functions: The functions and handlers.
            async_handlers: Where async functions run: ``"trio"`` or ``"asyncio"``.
            lifespan: A function for each place that has a lifespan, by the name of the place.

        Raises:
            HandlerError: A function cannot be a handler or a lifespan, or its type is no string;
                the text says which.
        """
        return cls(
            {type_: _handler_for(type_, each, async_handlers) for type_, each in functions.items()},
            lifespans=[
                _lifespan_for(key, each, async_handlers) for key, each in (lifespan or {}).items()
            ],
        )

    def find(self, type: str) -> Handler:  # noqa: A002  (the field's name)
        """The handler for jobs of this type.

        Raises:
            UnknownTypeError: The type has no handler, and there is no default.
        """
        handler = self.table.get(type, self._default)
        if handler is None:
            raise UnknownTypeError(type, tuple(sorted(self.table)))
        return handler

    def is_repeatable(self, type: str) -> bool:  # noqa: A002
        """Whether jobs of this type may run again after a process has died in them."""
        handler = self.table.get(type, self._default)
        return handler is None or handler.repeatable

    def validate(self, type: str, payload: bytes) -> None:  # noqa: A002
        """Check a submitted payload: all of it is JSON, and the type's handler takes it.

        Runs the code of the payload's class, if the handler annotates one.

        Raises:
            UnknownTypeError: The type has no handler, and there is no default.
            msgspec.MsgspecError: The payload is not JSON, or not of the handler's type.
            UnicodeError: The payload is not valid UTF-8.
            RecursionError: The payload is nested too deep.
        """
        handler = self.table.get(type, self._default) or self.find(type)  # which raises
        # A typed decoder only skims fields that its type does not name, and lets bad UTF-8 and
        # 1e999 pass there. But clients that read the job get those fields.
        decode_anything(payload)
        if handler.decode is decode_anything:
            return
        began = time.perf_counter()
        try:
            handler.decode(payload)
        finally:
            seconds = time.perf_counter() - began
            if seconds >= _COUNTED:
                before = self._check_seconds.get(handler.name, 0.0)
                self._check_seconds[handler.name] = before + seconds

    def hidden(self, type: str) -> tuple[str, ...]:  # noqa: A002
        """The paths that the type's handler hides; none if the type has no handler."""
        handler = self.table.get(type, self._default)
        return () if handler is None else handler.hide

    def take_check_seconds(self) -> Mapping[str, float]:
        """The seconds that `validate` took since the last call of this method, by handler name."""
        taken = self._check_seconds
        if taken:
            self._check_seconds = {}
        return taken

    @property
    def places(self) -> AbstractSet[Run]:
        """Where the handlers run."""
        return {each.run for each in self.table.values()}

    @property
    def process_functions(self) -> list[Function]:
        """The functions that run in a child process."""
        return [
            Function(each.name, each.spread)
            for each in self.table.values()
            if each.run is Run.PROCESS
        ]

    @property
    def max_running(self) -> Mapping[str, int | None]:
        """By type, how many of its jobs run at the same time; empty if no type has a limit."""
        limits = {type_: each.max_running for type_, each in self.table.items()}
        return limits if any(limits.values()) else {}

    @property
    def paused(self) -> list[str]:
        """The types whose jobs are held from the start."""
        return [type_ for type_, each in self.table.items() if each.paused]

    def schemas(self, *, ref_template: str = "#/$defs/{name}") -> PayloadSchemas:
        """The JSON schema of each type's payload.

        Args:
            ref_template: How a schema refers to a component, given the component's name.
        """
        types = {name: handler.payload_type for name, handler in self.table.items()}
        return make_schemas(types, ref_template=ref_template)

    def describe_payloads(self) -> str:
        """The schemas as comment lines of a TOML file."""
        schemas = self.schemas()
        lines = ["", "# The payload of each type, as JSON Schema:"]
        lines += [f"# {_json(name)} = {_json(schema)}" for name, schema in schemas.types.items()]
        lines += [f"# #/$defs/{name} = {_json(each)}" for name, each in schemas.components.items()]
        return "\n".join(lines) + "\n"


def _handler_for(type_: object, function: object, async_handlers: str) -> Handler:
    if not isinstance(type_, str):
        raise HandlerError(f"a job type must be a string, got {type_!r}")
    if isinstance(function, Handler):
        return function
    try:
        return Handler.of(function, async_handlers=async_handlers)
    except HandlerError as error:
        which = f" ({own_name(function)})" if callable(function) else ""
        raise HandlerError(f"the function for type {type_!r}{which} {error}") from error


def _lifespan_for(key: str, function: object, async_handlers: str) -> Lifespan:
    if isinstance(function, Lifespan):
        return function
    try:
        return Lifespan.of(function, key=key, async_handlers=async_handlers)
    except HandlerError as error:
        raise HandlerError(f"the lifespan {key!r} {error}") from error


def _check_lifespans(lifespans: Sequence[Lifespan], places: AbstractSet[Run]) -> None:
    """Raise a HandlerError if there is one too many."""
    keys: dict[Run, str] = {}
    for each in lifespans:
        if each.place not in places:
            raise HandlerError(f"the lifespan {each.key!r} has no use: no handler runs there")
        if each.place in keys:
            raise HandlerError(
                f"the lifespans {keys[each.place]!r} and {each.key!r} are for the same place"
            )
        keys[each.place] = each.key


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
