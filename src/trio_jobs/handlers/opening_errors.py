"""Why the places where handlers run have not opened."""


class LifespanError(Exception):
    """A lifespan has not opened; the text says which one, and why."""


class LoopStartError(Exception):
    """asyncio's loop cannot be started; the text says why."""


class StartStoppedError(Exception):
    """A stop was requested while a lifespan or a connection opened."""
