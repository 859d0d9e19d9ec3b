"""`hide_values`: replaces the values in a JSON text to which paths lead."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

# Names with dots between them: ``card.number``.
PATH: Final = r"\A[^.\x00-\x1f\x7f-\x9f\ud800-\udfff]+(\.[^.\x00-\x1f\x7f-\x9f\ud800-\udfff]+)*\Z"
HIDDEN: Final = "•••"

_ANY: Final = "*"
# `Raw` keeps a number with a fraction as it was written.
_decode = msgspec.json.Decoder(float_hook=lambda text: msgspec.Raw(text.encode())).decode
_encode = msgspec.json.Encoder().encode


def is_path(value: object) -> bool:
    """Whether a value is a path."""
    return isinstance(value, str) and re.search(PATH, value) is not None


def hide_values(text: bytes, paths: Sequence[str]) -> bytes:
    """The JSON with `HIDDEN` for each value to which a path leads.

    Each name of a path leads to the member of this name, or to those of the objects in an array;
    ``*`` leads to each member or item. A name may have dots: ``a.b`` leads to the member ``a.b``,
    and to the member ``b`` of ``a``. If the text cannot be read, all of it is hidden.
    """
    try:
        return _encode(_without(_decode(text), paths))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError):
        return _encode(HIDDEN)


def _without(value: Any, paths: Sequence[str]) -> Any:  # noqa: ANN401  # any JSON
    if isinstance(value, dict):
        for name, member in value.items():
            if rests := [rest for path in paths for rest in _behind(name, path)]:
                value[name] = HIDDEN if "" in rests else _without(member, rests)
    elif isinstance(value, list):
        rests = [path.removeprefix(f"{_ANY}.") if path != _ANY else "" for path in paths]
        value[:] = [HIDDEN if "" in rests else _without(each, rests) for each in value]
    return value


def _behind(name: str, path: str) -> Iterator[str]:
    """What is left of a path behind the member of this name."""
    for each in (name, _ANY):
        if path == each:
            yield ""
        elif path.startswith(f"{each}."):
            yield path[len(each) + 1 :]
