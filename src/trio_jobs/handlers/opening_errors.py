"""Errors of a start: a place where handlers run, such as asyncio's loop, cannot be opened."""


class LifespanError(Exception):
    """A lifespan has failed before its ``yield``; the text says which one, and why."""


class LoopStartError(Exception):
    """asyncio's loop cannot be started; the text says why."""


class StartStoppedError(Exception):
    """A stop was requested while a lifespan or a connection was being opened."""
