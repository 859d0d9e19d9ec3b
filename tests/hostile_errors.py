"""Errors whose own classes make showing them fail, or never end."""

from collections.abc import Callable


class RaisingName(type):
    """The class of classes whose name raises."""

    def __getattribute__(cls, name: str) -> object:
        if name in {"__name__", "__qualname__"}:
            raise SystemExit("no name")
        return super().__getattribute__(name)


class NumberedName(type):
    """The class of classes whose name is no text."""

    @property
    def __name__(cls) -> int:  # type: ignore[override]
        return 5


class NamelessError(Exception, metaclass=RaisingName):
    """Has a name that raises."""


class NumberError(Exception, metaclass=NumberedName):
    """Has a name that is a number."""


class BadText(str):
    """A text that cannot be cut."""

    __slots__ = ()

    def __getitem__(self, _: object) -> str:
        raise SystemExit("no item")

    def __len__(self) -> int:
        return 10**9


class BadTextError(Exception):
    """Has a text that is more than a text."""

    def __str__(self) -> str:
        return BadText("text")

    __repr__ = __str__


class NoTextError(Exception):
    """Has no text, and raises what no `except Exception` catches."""

    def __str__(self) -> str:
        raise SystemExit("no text")

    __repr__ = __str__


class NoClassError(Exception):
    """Does not say what it is."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise SystemExit("no class")


class NoTracebackError(Exception):
    """Does not show where it was raised."""

    @property
    def __traceback__(self) -> None:  # type: ignore[override]
        raise SystemExit("no traceback")


class NoMembersGroup(ExceptionGroup[ValueError]):
    """A group that does not show its members."""

    @property
    def exceptions(self) -> tuple[ValueError]:
        raise SystemExit("no members")


class OwnMemberGroup(ExceptionGroup[ValueError]):
    """A group that is its own only member."""

    @property
    def exceptions(self) -> tuple[ValueError]:
        return (self,)  # type: ignore[return-value]


def make_wide() -> ExceptionGroup[Exception]:
    """A group of few groups, each held so often that all of them together have no end."""
    group = ExceptionGroup("wide", [ValueError("leaf")])
    for _ in range(80):
        group = ExceptionGroup("wide", [group, group])  # type: ignore[list-item]
    return group


# What makes it, its type, and its text as it is described.
HOSTILE: dict[str, tuple[Callable[[], BaseException], str, str]] = {
    "name raises": (lambda: NamelessError("x"), "NamelessError", "x"),
    "name is a number": (lambda: NumberError("x"), "NumberError", "x"),
    "text is a subclass": (BadTextError, "BadTextError", "text"),
    "text raises": (NoTextError, "NoTextError", "<exception str() failed>"),
    "class raises": (lambda: NoClassError("x"), "NoClassError", "x"),
    "traceback raises": (lambda: NoTracebackError("x"), "NoTracebackError", "x"),
    "members raise": (
        lambda: NoMembersGroup("g", [ValueError("a")]),
        "NoMembersGroup",
        "g (1 sub-exception): ValueError: a",
    ),
    "member of itself": (
        lambda: OwnMemberGroup("g", [ValueError("a")]),
        "OwnMemberGroup",
        "g (1 sub-exception): ValueError: a",
    ),
    "no end": (make_wide, "ExceptionGroup", "wide (2 sub-exceptions): ValueError: leaf"),
}
