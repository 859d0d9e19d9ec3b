"""What commands write: JSON in lines, and tables in cells."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.proof.share import scaled
from trio_jobs.commands.output import json_line
from trio_jobs.commands.text_cells import fit, plain, table, width_of

ODD = st.text(st.sampled_from('aé\u202e\x9b\u4e2d\u0301\U0001f600\U000e0001\\"\n\x00'))
JSON = st.recursive(
    st.none() | st.integers() | ODD, lambda inner: st.lists(inner) | st.dictionaries(ODD, inner)
)


@settings(max_examples=scaled(50))
@given(JSON, st.booleans(), st.sampled_from([None, 2]))
def test_json_line_is_printable_and_means_the_same(
    value: object, ascii_only: bool, indent: int | None
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    line = json_line(text.encode())

    assert line.isprintable()
    assert json.loads(line) == value


@given(ODD, st.integers(1, 20))
def test_a_fitted_text_has_its_width(text: str, width: int) -> None:
    assert width_of(fit(plain(text), width)) == width


def test_table_keeps_to_the_terminal_and_cuts_what_comes_last() -> None:
    rows = [("ID", "N", "ERROR"), ("a", "12", "\u4e2d" * 20), ("bc", "3", "no")]

    lines = table(rows, width=20, right=frozenset({1}))

    assert lines == ["ID   N  ERROR", "a   12  " + "\u4e2d" * 5 + "…", "bc   3  no"]


@pytest.mark.parametrize("raw", [b'{"a":1.50}', b'"\xc3\xa9"', b"12345678901234567890.0"])
def test_json_line_leaves_numbers_and_letters_as_they_came(raw: bytes) -> None:
    assert json_line(raw).encode() == raw
