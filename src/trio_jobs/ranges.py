"""The ranges of the numbers that Python programs give: those of the settings they stand for."""

import sys
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta

from trio_jobs.config import ConfigError
from trio_jobs.config.keys import KEYS_BY_PATH, Key

# Of `open_jobs`, `Jobs.add_routes`, `Jobs.create_app` and the marker of the pytest plugin: which
# setting each is.
SETTINGS: Final[Mapping[str, str]] = {
    "workers": "pool.workers",
    "buffer_size": "pool.buffer_size",
    "processes": "pool.processes",
    "grace_period": "pool.grace_period",
    "keep_completed": "store.keep_completed",
    "keep_completed_bytes": "store.keep_completed_bytes",
    "max_payload_bytes": "http.max_body_bytes",
    "max_result_bytes": "store.max_result_bytes",
    "max_waiters": "http.max_waiters",
    "max_wait_seconds": "http.max_wait_seconds",
    "stream_idle_timeout": "http.stream_idle_timeout",
}
# Those that are none. The command takes its grace period for the first one, in whole seconds.
_OTHERS: Final = {
    "shutdown_retry_after": Annotated[int, Meta(ge=1, le=604_800)],
    "limit": Annotated[int, Meta(ge=0, le=sys.maxsize)],
}
_KEYS: Final[Mapping[str, Key]] = {
    **{name: KEYS_BY_PATH[path] for name, path in SETTINGS.items()},
    **{name: Key(section="", name=name, type=type_) for name, type_ in _OTHERS.items()},
}


def check_numbers(**numbers: object) -> None:
    """Check arguments by their names, in the words of the command.

    Raises:
        ValueError: One is not of its type, or out of its range.
    """
    for name, number in numbers.items():
        try:
            _KEYS[name].convert(number, where=name)
        except ConfigError as error:
            raise ValueError(str(error)) from None
