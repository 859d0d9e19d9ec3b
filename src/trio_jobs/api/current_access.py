"""Who asks, and the log of what operators do."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio

from trio_jobs.access import ANYONE, EXTENSION, Access, Role
from trio_jobs.api.quart_adapter import current_request
from trio_jobs.pool.refusals import StoreTimeoutError, StoreWriteError

log = logging.getLogger(__name__)

# As many texts of a list as a line shows.
_MAX_LISTED = 20


def current_access() -> Access:
    """Who makes the current request; behind a server without access control, anyone."""
    extensions: dict[str, Any] = current_request().scope.get("extensions") or {}
    access: Access = extensions.get(EXTENSION, ANYONE)
    return access


def current_client() -> str:
    """The address of the client that makes the current request, for the log."""
    client = current_request().scope.get("client")
    return "unix" if client is None else "{}:{}".format(*client)


def log_action(action: str, access: Access | None = None, /, **fields: object) -> None:
    """Log what a person has done: any change but a submission.

    A client with the role ``submit`` is a program. It cancels its own jobs, and no line says so.

    Args:
        action: What was done, in a word such as ``cancel``.
        access: Who did it, whatever the role; by default who makes the current request.
        fields: With what: a ``job_id``, or for many jobs a ``count``. A line leaves out None and
            empty lists; of a list, it shows 20 texts.
    """
    who = access or current_access()
    if access is None and who.role is Role.SUBMIT:
        return
    by = {} if who.name is None else {"by": who.name}
    shown = {name: _shown(value) for name, value in fields.items() if value not in (None, [])}
    log.info("operator_action", extra={"action": action, **by, "client": current_client(), **shown})


@contextmanager
def logged_action(action: str, **fields: object) -> Iterator[dict[str, object]]:
    """A block that does what `log_action` logs after it; the block may add to the fields.

    If the block is cancelled, or the disk does not answer in time, the line says ``unknown``. Of an
    action that is refused there is no line, unless it takes effect all the same.
    """
    try:
        yield fields
    except StoreWriteError as error:
        if error.holds:
            log_action(action, **fields)
        raise
    except (StoreTimeoutError, trio.Cancelled):
        log_action(action, **fields, unknown=True)
        raise
    log_action(action, **fields)


def _shown(value: object) -> object:
    if not isinstance(value, list):
        return value
    more = [f"and {len(value) - _MAX_LISTED} more"] if len(value) > _MAX_LISTED else []
    return ",".join([*map(str, value[:_MAX_LISTED]), *more])
