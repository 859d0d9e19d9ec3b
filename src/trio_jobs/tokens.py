"""`TokenTable`: the tokens that clients may show, with their roles and names."""

import re
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest, digest
from pathlib import Path
from typing import Final, Self

from trio_jobs.access import Access, Role
from trio_jobs.bounded_read import read_within

# A client cannot send a longer token: request line and headers have 1 MiB at most.
_MAX_FILE: Final = 2**20
_MAX_TOKENS: Final = 20
_NAME: Final = re.compile(r"[^\W_][\w.@+-]{0,63}")

# What a token gives, and the key for the cookies of its sessions.
_Entry = tuple[Access, bytes]


class TokenTable:
    """All valid tokens, by their fingerprints. It never changes: another table replaces it.

    A look-up compares with all fingerprints, each in constant time, so that its time tells nothing
    about them.

    Args:
        entries: What each token gives, and the key of its sessions; one at least.
    """

    def __init__(self, entries: Iterable[_Entry]) -> None:
        self._entries = tuple(entries)

    @classmethod
    def of(cls, lines: Iterable[str], *, where: str = "the tokens") -> Self:
        """Make a table of lines, each a token alone, or a role, a token and perhaps a name.

        A token alone has the role ``control``. Empty lines, and those that begin with ``#``, do not
        count.

        Args:
            lines: At most 20 with a token.
            where: What the lines are, for refusals.

        Raises:
            ValueError: A line is wrong, or there is no token. The text is one line; it has the
                number of the wrong line, and quotes nothing of it.
        """
        entries: list[_Entry] = []
        numbers: dict[bytes, int] = {}  # of the lines, by fingerprint
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            try:
                entry = _parse_words(words)
            except ValueError as error:
                raise ValueError(f"{where}, line {number}: {error}") from None
            first = numbers.setdefault(entry[0].fingerprint, number)
            if first != number:
                raise ValueError(f"{where}, line {number}: the token is that of line {first}")
            if len(entries) == _MAX_TOKENS:
                raise ValueError(f"{where}, line {number}: more than {_MAX_TOKENS} tokens")
            entries.append(entry)
        if not entries:
            raise ValueError(f"{where}: there is no token")
        return cls(entries)

    @classmethod
    def of_file(cls, path: str | Path) -> Self:
        """Read a table from a file.

        Raises:
            ValueError: The file cannot be read, or a line is wrong, as in `of`. The text names the
                file.
        """
        where = f"the token file {str(path)!r}"
        try:
            text = read_within(path, max_bytes=_MAX_FILE).decode("utf-8-sig")  # as of config.toml
        except UnicodeDecodeError:
            raise ValueError(f"{where} must be UTF-8") from None
        except OSError as error:
            raise ValueError(f"cannot read {where}: {error.strerror}") from None
        return cls.of(text.split("\n"), where=where)

    @classmethod
    def of_one(cls, token: str) -> Self:
        """Make a table of one token with the role ``control``; white space around it is dropped.

        Raises:
            ValueError: No client could send such a token. The text does not quote it.
        """
        token = token.strip()
        if len(token.split()) != 1 or not _is_token(token):
            raise ValueError("the token must be ASCII, without white space")
        return cls([_entry(Role.CONTROL, token)])

    def find(self, token: bytes) -> Access | None:
        """What this token gives; None if it is not valid."""
        return self.find_fingerprint(sha256(token).digest())

    def session_key(self, fingerprint: bytes) -> bytes | None:
        """The key for the sessions of the token with this SHA-256; None if there is none.

        All tables that have the token have the same key for it. It tells as little about the token
        as the fingerprint, and the fingerprint tells nothing about it.
        """
        entry = self._find(fingerprint)
        return None if entry is None else entry[1]

    def find_fingerprint(self, fingerprint: bytes) -> Access | None:
        """What the token with this SHA-256 gives; None if there is none."""
        entry = self._find(fingerprint)
        return None if entry is None else entry[0]

    def _find(self, fingerprint: bytes) -> _Entry | None:
        found = None
        for each in self._entries:
            if compare_digest(each[0].fingerprint, fingerprint):
                found = each
        return found


def _parse_words(words: list[str]) -> _Entry:
    if len(words) == 1:
        words = [Role.CONTROL, *words]
        if words[1] in tuple(Role):
            raise ValueError("behind the role, the token is missing")
    role, token, *rest = words
    # A word of another kind may be a secret, so no refusal shows it. Were it taken for a token, the
    # secret behind it would be a name.
    if role not in tuple(Role):
        raise ValueError(f"the first of several words must be a role: {', '.join(Role)}")
    if not _is_token(token):
        raise ValueError("the token must be ASCII")
    if len(rest) > 1:
        raise ValueError("there may be at most a role, a token and a name")
    if rest and not (_NAME.fullmatch(rest[0]) and rest[0].isprintable()):
        raise ValueError(
            "the name must be 1 to 64 letters, digits and _ . @ + -, and begin with a letter or"
            " digit"
        )
    return _entry(Role(role), token, *rest)


def _entry(role: Role, token: str, name: str | None = None) -> _Entry:
    access = Access(role=role, name=name, fingerprint=sha256(token.encode()).digest())
    return access, digest(token.encode(), b"a session of trio-jobs", "sha256")


def _is_token(text: str) -> bool:
    return text.isascii() and text.isprintable()
