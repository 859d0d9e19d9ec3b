"""Recognises by its error that an async handler runs on the wrong loop. This only gives advice."""

from types import TracebackType

# The errors of asyncio's functions in a task of Trio's. In this order: asyncio finds no loop; Trio
# gets one of asyncio's futures; asyncio's locks and queues use the loop without a check.
_ASYNCIO_ON_TRIO = (
    (RuntimeError, "no running event loop"),
    (TypeError, "trio.run received unrecognized yield message"),
    (AttributeError, "'NoneType' object has no attribute 'create_future'"),
)

# The errors of Trio's functions in a task of asyncio's. The last one is asyncio's own, when it gets
# what a checkpoint of Trio's yields.
_TRIO_ON_ASYNCIO = (
    (RuntimeError, "must be called from async context"),
    (AttributeError, "'RunContext' object has no attribute"),
    (RuntimeError, "Task got bad yield: <class 'trio."),
)

_ON_TRIO = 'this async handler runs on Trio, and asyncio libraries need run = "asyncio"'
_ON_ASYNCIO = 'this handler runs on asyncio; Trio\'s functions need run = "trio"'


def advise_on_trio(error: BaseException, text: str) -> str | None:
    """The advice if an error of a handler on Trio comes from asyncio's missing loop.

    Args:
        error: The error; no group.
        text: Its text.
    """
    return _ON_TRIO if _matches(error, text, _ASYNCIO_ON_TRIO, "asyncio.") else None


def advise_on_asyncio(error: BaseException, text: str) -> str | None:
    """The advice if an error of a handler on asyncio comes from Trio; see `advise_on_trio`."""
    return _ON_ASYNCIO if _matches(error, text, _TRIO_ON_ASYNCIO, "trio.") else None


def _matches(
    error: BaseException, text: str, known: tuple[tuple[type, str], ...], library: str
) -> bool:
    if any(type(error) is kind and text.startswith(start) for kind, start in known):
        return True
    # Another version of the library may have other texts. Its code raises the error all the same.
    kinds = {kind for kind, _ in known}
    return type(error) in kinds and _last_module(error.__traceback__).startswith(library)


def _last_module(frames: TracebackType | None) -> str:
    name = ""
    while frames is not None:
        name = frames.tb_frame.f_globals.get("__name__", "")
        frames = frames.tb_next
    return name if isinstance(name, str) else ""
