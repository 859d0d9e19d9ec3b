"""One key: what it is called in each source, how its value is checked, and how text becomes one."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, get_type_hints

import msgspec
from msgspec.inspect import (
    BoolType,
    FloatType,
    IntType,
    LiteralType,
    Metadata,
    NoneType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from trio_jobs.config.messages import ConfigError, shown
from trio_jobs.settings import SECTIONS

# ASCII decimals and nothing else: no sign +, blanks, 1_000, 0x10, 1e3, inf. Text that is no such
# number stays text, and is refused as any text is where a number was expected.
_NUMBER: Final = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?")

# What can stand for nothing else; for a lone y or f one would have to know what was meant.
_BOOLEANS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting, as its field in `trio_jobs.settings` declares it."""

    section: str
    name: str
    type: Any
    secret: bool = False
    check: Callable[[Any], None] | None = None  # raises ValueError; for what no type can say

    @property
    def path(self) -> str:
        """Its name in the file, with the section."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"TRIO_JOBS_{self.section}_{self.name}".upper()

    @property
    def option(self) -> str:
        """Its name on the command line, if it is one of those that have one."""
        log = "log-" if self.section == "logging" else ""
        return f"--{log}{self.name.replace('_', '-')}"

    def convert(self, value: object, *, where: str) -> object:
        """Check a value as TOML has it; a lone string will do for an array of strings.

        Raises:
            ConfigError: It is not of the key's type, or out of its range.
        """
        return self._checked(value, found=value, where=where)

    def parse(self, text: str, *, where: str) -> object:
        """Check a value that came as text, from the environment or the command line.

        Raises:
            ConfigError: It does not stand for a value of the key's type and range.
        """
        value: object = text
        match _unwrap(type_info(self.type))[0]:
            case IntType() | FloatType() if _NUMBER.fullmatch(text):
                value = float(text) if "." in text else int(text)
            case BoolType():
                value = _BOOLEANS.get(text.lower(), text)
            case VarTupleType():
                value = [item.strip() for item in text.split(",")]
        return self._checked(value, found=text, where=where)

    def _checked(self, value: object, *, found: object, where: str) -> object:
        plain, noun = _unwrap(type_info(self.type))
        if isinstance(value, str) and isinstance(plain, VarTupleType):
            value = [value]
        if isinstance(value, str) and isinstance(plain, LiteralType):
            value = value.lower()  # INFO is what a level is called elsewhere
        try:
            checked: object = msgspec.convert(value, self.type)
            if self.check is not None:
                self.check(checked)
        # Also UnicodeEncodeError: a variable that is not UTF-8, which arrives with lone surrogates.
        except ValueError:
            got = "a value that is not shown here" if self.secret else shown(found)
            # Without its cause: that would show a secret, and says nothing more.
            raise ConfigError(f"{where} must be {_expected(plain, noun)}, got {got}") from None
        return checked


def keys_of(section: str, settings: type[Any]) -> dict[str, Key]:
    """The keys of a table by name, from the fields of the dataclass that holds its settings."""
    types = get_type_hints(settings, include_extras=True)
    return {
        field.name: Key(
            section=section,
            name=field.name,
            type=types[field.name],
            secret=not field.repr,
            check=field.metadata.get("check"),
        )
        for field in fields(settings)
    }


KEYS: Final[Mapping[str, Mapping[str, Key]]] = {
    section: keys_of(section, settings) for section, settings in SECTIONS.items()
}
KEYS_BY_PATH: Final[Mapping[str, Key]] = {
    key.path: key for keys in KEYS.values() for key in keys.values()
}

# For a name that is not quite a setting's: also one that lacks the section, or has another. Other
# servers have a host and a port.
PATHS_BY_NAME: Final[Mapping[str, str]] = {
    **{name: key.path for key in KEYS_BY_PATH.values() for name in (key.path, key.name)},
    **dict.fromkeys(("host", "port"), "http.bind"),
}


def _unwrap(info: Type) -> tuple[Type, str | None]:
    """The type without the None that makes a key optional, and its description if it has one."""
    match info:
        case Metadata(type=inner, extra_json_schema=schema):
            return _unwrap(inner)[0], (schema or {}).get("description")
        case UnionType(types=types):
            return _unwrap(next(inner for inner in types if not isinstance(inner, NoneType)))
    return info, None


def _expected(plain: Type, noun: str | None) -> str:
    """What a value must be, in words."""
    match plain:
        case IntType(ge=low, le=high):
            return f"{noun or 'an integer'} from {low} to {high}"
        case FloatType(ge=low, le=high):
            return f"{noun or 'a number'} from {low} to {high}"
        case BoolType():
            return noun or "true or false"
        case LiteralType(values=values):
            return noun or "one of " + ", ".join(map(repr, values))
        case VarTupleType(min_length=least):
            return noun or f"a string or {'a non-empty' if least else 'an'} array of strings"
    return noun or "a string"
