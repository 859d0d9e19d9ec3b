"""Values that are hidden by paths into a JSON text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_jobs.hidden_values import HIDDEN, hide_values, is_path

CARD = '{"card":{"number":"4111","holder":"Ann"},"amount":1.10}'


NUMBERS = '{"a":123456789012345678901234567890,"b":1e5,"c":-0.0}'


@pytest.mark.parametrize(
    ("text", "paths", "shown"),
    [
        (CARD, ["card.number"], '{"card":{"number":"•••","holder":"Ann"},"amount":1.10}'),
        (CARD, ["card"], '{"card":"•••","amount":1.10}'),
        (CARD, ["card.*"], '{"card":{"number":"•••","holder":"•••"},"amount":1.10}'),
        (CARD, ["*"], '{"card":"•••","amount":"•••"}'),
        (CARD, ["*.number"], '{"card":{"number":"•••","holder":"Ann"},"amount":1.10}'),
        (CARD, ["card.x", "amount"], '{"card":{"number":"4111","holder":"Ann"},"amount":"•••"}'),
        (CARD, ["card.number.part", "number", "Card", "car"], CARD),
        ('{"a":[{"b":1,"c":2},[{"b":3}],4]}', ["a.b"], '{"a":[{"b":"•••","c":2},[{"b":"•••"}],4]}'),
        ('{"a":[{"b":1}]}', ["a.*.b"], '{"a":[{"b":"•••"}]}'),
        ('{"a":[1,[2],{}]}', ["a.*"], '{"a":["•••","•••","•••"]}'),
        ('[{"b":1},{"b":2}]', ["b"], '[{"b":"•••"},{"b":"•••"}]'),
        ("[1,2]", ["*"], '["•••","•••"]'),
        ('{"a":{"b.c":3,"b":{"c":4}}}', ["a.b.c"], '{"a":{"b.c":"•••","b":{"c":"•••"}}}'),
        ('{"a.b":1,"a":{"b":2}}', ["a.b.c"], '{"a.b":1,"a":{"b":2}}'),
        ('{"a.b":{"c":1}}', ["a.b.c"], '{"a.b":{"c":"•••"}}'),
        ('{"a":null,"a":{"b":1}}', ["a.b"], '{"a":{"b":"•••"}}'),
        ('{"a":{"b":1},"a":2}', ["a.b"], '{"a":2}'),
        ('{"*":{"b":1},"c":{"b":2}}', ["*.b"], '{"*":{"b":"•••"},"c":{"b":"•••"}}'),
        ('"card"', ["card", "*"], '"card"'),
        ("null", ["*"], "null"),
        (NUMBERS, ["x"], NUMBERS),
    ],
)  # fmt: skip
def test_paths_hide_what_they_lead_to(text: str, paths: list[str], shown: str) -> None:
    assert hide_values(text.encode(), paths).decode() == shown


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"a":\xff}', b'"\\ud800"', b"[" * 2000 + b"]" * 2000, b"1 2"]
)
def test_what_cannot_be_read_is_hidden_as_a_whole(text: bytes) -> None:
    assert json.loads(hide_values(text, ["a"])) == HIDDEN


@pytest.mark.parametrize("path", ["card", "card.number", "*", "*.*", "a b.é", "0", "a.*.b", "-"])
def test_path_is_names_with_dots_between_them(path: str) -> None:
    assert is_path(path)


@pytest.mark.parametrize("value", ["", ".", "a.", ".a", "a..b", "a\n", "a\x00b", 7, None, b"a", []])
def test_anything_else_is_no_path(value: object) -> None:
    assert not is_path(value)


NAMES = st.sampled_from(["a", "b", "a.b", "*", "c"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, 0, "secret"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


def leads(path: str, value: object, place: tuple[str | int, ...]) -> bool:
    """Whether a path leads to a place, or to one above it; written from the documentation alone."""
    if not place:
        return False
    here, *below = place
    if isinstance(here, int):
        assert isinstance(value, list)
        if path == "*":
            return True
        rests = [path.removeprefix("*.")]
    else:
        assert isinstance(value, dict)
        if path in (here, "*"):
            return True
        rests = [path[len(n) + 1 :] for n in (here, "*") if path.startswith(f"{n}.")]
    return any(leads(rest, value[here], tuple(below)) for rest in rests)  # type: ignore[index]


def places(value: object) -> list[tuple[str | int, ...]]:
    """The places of all values that are neither an object nor an array."""
    if isinstance(value, dict):
        return [(name, *rest) for name, each in value.items() for rest in places(each)]
    if isinstance(value, list):
        return [(index, *rest) for index, each in enumerate(value) for rest in places(each)]
    return [()]


@given(VALUES, st.lists(st.lists(NAMES, min_size=1, max_size=3).map(".".join), max_size=3))
def test_a_value_is_shown_unless_a_path_leads_to_it(value: object, paths: list[str]) -> None:
    shown = json.loads(hide_values(json.dumps(value).encode(), paths))

    for place in places(value):
        original, now = value, shown
        for step in place:
            if now == HIDDEN:
                break
            original, now = original[step], now[step]  # type: ignore[index]
        if any(leads(path, value, place) for path in paths):
            assert now == HIDDEN, (place, paths)
        else:
            assert now == original, (place, paths)
