"""The table of tokens: its lines, its refusals, its look-up."""

from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import Access, Role, TokenTable

FILE = """
# Two tokens of one name while the first is replaced
read   first\tgrafana
  read second grafana
submit  fe[tch=#1
s3cret
control  k33p-2 zoë.m+ops@example
"""


def fingerprint(token: str) -> bytes:
    return sha256(token.encode()).digest()


def test_each_line_gives_a_token_with_its_role_and_name() -> None:
    table = TokenTable.of(FILE.split("\n"))

    given = {token: table.find(token.encode()) for token in ("first", "second", "fe[tch=#1")}
    given |= {token: table.find(token.encode()) for token in ("s3cret", "k33p-2")}
    assert {token: (each.role, each.name) for token, each in given.items() if each} == {
        "first": (Role.READ, "grafana"),
        "second": (Role.READ, "grafana"),
        "fe[tch=#1": (Role.SUBMIT, None),
        "s3cret": (Role.CONTROL, None),
        "k33p-2": (Role.CONTROL, "zoë.m+ops@example"),
    }
    for token, access in given.items():
        assert access is not None
        assert access.fingerprint == fingerprint(token)
        assert table.find_fingerprint(fingerprint(token)) is access


@pytest.mark.parametrize(
    "token",
    [b"", b"read", b"grafana", b"firs", b"first ", b"First", b"# Two", b"\xff", b"x" * 9999],
)
def test_no_other_word_is_a_token(token: bytes) -> None:
    table = TokenTable.of(FILE.split("\n"))

    assert table.find(token) is None
    assert table.find_fingerprint(token) is None


ROLES = "submit, read, control"
NO_NAME = "the name must be 1 to 64 letters, digits and _ . @ + -, and begin with a letter or digit"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("read", "behind the role, the token is missing"),
        ("control", "behind the role, the token is missing"),
        ("reed s3cret", f"the first of several words must be a role: {ROLES}"),
        ("s3cret alice", f"the first of several words must be a role: {ROLES}"),
        ("READ s3cret", f"the first of several words must be a role: {ROLES}"),
        ("s3crët", "the token must be ASCII"),
        ("read s3crët", "the token must be ASCII"),
        ("read s3cret ann s3cret", "there may be at most a role, a token and a name"),
        ("read s3cret # s3cret", "there may be at most a role, a token and a name"),
        *((f"read s3cret {name}", NO_NAME) for name in ("#ann", ".ann", "_", "ann,s3cret")),
        *((f"read s3cret {name}", NO_NAME) for name in ("ann=b", 'a"n', "a\u200bn", "n" * 65)),
    ],
)
def test_wrong_line_is_named_by_its_number_and_not_quoted(
    tmp_path: Path, line: str, complaint: str
) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# {line}\n\n{line}\nfine\n")

    with pytest.raises(ValueError, match="line 3") as caught:
        TokenTable.of_file(path)

    assert str(caught.value) == f"the token file {str(path)!r}, line 3: {complaint}"
    assert "s3c" not in complaint


def test_token_stands_in_one_line_only() -> None:
    for again in ("twice", "read twice", "submit twice ann"):
        with pytest.raises(ValueError, match=r"^the tokens, line 4: the token is that of line 2$"):
            TokenTable.of(["", "control twice ann", "other", again])


def test_there_are_at_most_twenty_tokens() -> None:
    lines = ["# many", *(f"token-{n}" for n in range(20))]

    assert TokenTable.of([*lines, ""]).find(b"token-19") is not None
    with pytest.raises(ValueError, match=r"^the tokens, line 22: more than 20 tokens$"):
        TokenTable.of([*lines, "read token-20"])


def test_file_of_a_windows_editor_may_begin_with_a_bom(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_bytes(b"\xef\xbb\xbfread s3cret\r\n")

    table = TokenTable.of_file(tmp_path / "tokens")

    found = table.find(b"s3cret")
    assert found is not None
    assert found.role is Role.READ


@pytest.mark.parametrize("content", [b"", b" \n", b"# s3cret\n#\n"])
def test_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(content)

    with pytest.raises(ValueError, match="there is no token") as caught:
        TokenTable.of_file(path)

    assert str(caught.value) == f"the token file {str(path)!r}: there is no token"


def test_file_that_is_no_text_or_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_bytes(b"\xff")

    with pytest.raises(ValueError, match="tokens' must be UTF-8"):
        TokenTable.of_file(tmp_path / "tokens")
    with pytest.raises(ValueError, match="cannot read the token file '/no/such/file': No such"):
        TokenTable.of_file("/no/such/file")


def test_one_token_has_the_role_control_and_no_name() -> None:
    access = TokenTable.of_one(" s3cret\n").find(b"s3cret")

    assert access == Access(role=Role.CONTROL, fingerprint=fingerprint("s3cret"))


def test_one_token_may_be_called_like_a_role() -> None:
    assert TokenTable.of_one("read").find(b"read") is not None


@pytest.mark.parametrize("text", ["", " ", "two words", "s3crët", "s3\x00cret"])
def test_token_that_no_client_could_send_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"^the token must be ASCII, without white space$"):
        TokenTable.of_one(text)


WORDS = st.sampled_from(["", "submit", "read", "control", "#", "ann", "t0k", "t1k", "\u200b", "ö"])


@given(st.lists(st.lists(WORDS, max_size=4).map(" ".join), max_size=6))
def test_any_lines_give_a_table_or_a_refusal_in_one_line(lines: list[str]) -> None:
    given = [line.split() for line in lines]
    given = [words for words in given if words and not words[0].startswith("#")]
    try:
        table = TokenTable.of(lines)
    except ValueError as error:
        text = str(error)
        assert "\n" not in text
        assert "t0k" not in text
        assert "t1k" not in text
        return
    assert given
    for words in given:
        role = Role(words[0]) if len(words) > 1 else Role.CONTROL
        access = table.find(words[len(words) > 1].encode())
        assert access is not None
        assert (access.role, access.name) == (role, words[2] if len(words) == 3 else None)
