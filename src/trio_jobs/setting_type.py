"""`Setting`: one setting with its range; it converts values, and refuses wrong ones.

`settings` has the list of them.
"""

from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from trio_jobs.addresses import parse_address
from trio_jobs.shown_value import shown

_Section = TypeVar("_Section")
ADDRESSES: Final = "'host:port', '[ipv6]:port', 'unix:/path' or a non-empty array of these"


class ConfigError(ValueError):
    """A setting is wrong or unknown. The text is one line for the author of the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting, as the field of its section declares it.

    Attributes:
        type: Its type with the range, for msgspec.
        values: The permitted values, in words that follow "must be".
        description: What the setting decides, in a few words.
        default: None if it has no value by default.
        secret: Whether every text leaves out its value.
    """

    type: Any
    values: str
    description: str
    default: Any
    secret: bool

    def convert(self, value: object, *readings: object, where: str) -> Any:  # noqa: ANN401
        """Convert a value to the setting's type: the first reading that the setting takes.

        Args:
            value: What the user wrote, in TOML's types. It is tried first.
            readings: What the user may also mean by it, tried in turn.
            where: The setting's name in its source, for the refusal.

        Raises:
            ConfigError: The value and each reading are of another type, or out of the range.
        """
        for each in (value, *readings):
            try:
                converted = msgspec.convert(each, self.type)
                if self.values == ADDRESSES:
                    for address in converted:
                        parse_address(address)
            except ValueError:  # also UnicodeEncodeError, from text with lone surrogates
                continue
            return converted
        found = "a value that is not shown here" if self.secret else shown(value)
        raise ConfigError(f"{where} must be {self.values}, got {found}")


def settings_of(section: type[Any]) -> dict[str, Setting]:
    """The settings of a section by name."""
    hints = get_type_hints(section, include_extras=True)
    return {
        setting_name(each): Setting(
            type=(hint := hints[each.name]),
            values=values_of(hint),
            description=hint.__metadata__[-1],
            default=None if each.default is MISSING else each.default,
            secret=not each.repr,
        )
        for each in fields(section)
    }


def setting_name(each: Field[Any]) -> str:
    """The name of a field's setting: a name that Python reserves has an underscore in the field."""
    return each.name.removesuffix("_")


def values_of(hint: Any) -> str:  # noqa: ANN401  # a type
    """The permitted values of a type, in words that follow "must be"."""
    if metas := [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Meta)]:
        return str(metas[0].description)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(sorted(map(repr, get_args(hint))))
    return values_of(get_args(hint)[0])


def build(section: type[_Section], **values: object) -> _Section:
    """Make a section from the arguments of a Python program.

    Raises:
        ConfigError: A value is not of its setting's type, or out of its range.
    """
    settings = settings_of(section)
    return section(
        **{name: settings[name].convert(value, where=name) for name, value in values.items()}
    )
