"""Exceptions whose own classes make describing them fail, or never end."""

from collections.abc import Callable


class RaisingName(type):
    """The class of classes whose name raises."""

    def __getattribute__(cls, name: str) -> object:
        if name in {"__name__", "__qualname__"}:
            raise SystemExit("no name")
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=RaisingName):
    """Has a name that raises."""


class OddText(str):
    """A text that a JSON encoder refuses."""

    __slots__ = ()


class OddTextError(Exception):
    """Has a text that is more than a text."""

    def __str__(self) -> str:
        return OddText("text")


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


UNKNOWN = ("Exception", "<the error could not be described>")

# What makes it, its type, and its text as it is described.
HOSTILE: dict[str, tuple[Callable[[], BaseException], str, str]] = {
    "name raises": (lambda: NamelessError("x"), *UNKNOWN),
    "text is a subclass": (OddTextError, "OddTextError", "text"),
    "text raises": (NoTextError, "NoTextError", "<exception str() failed>"),
    "class raises": (lambda: NoClassError("x"), *UNKNOWN),
    "traceback raises": (lambda: NoTracebackError("x"), *UNKNOWN),
    "member of itself": (
        lambda: OwnMemberGroup("g", [ValueError("a")]),
        "OwnMemberGroup",
        "g (1 sub-exception): ",
    ),
    "no end": (
        make_wide,
        "ExceptionGroup",
        "wide (2 sub-exceptions): " + "; ".join(["ValueError: leaf"] * 10),
    ),
}
