"""`run_reloads`: at a SIGHUP the server reads certificate and tokens again, and reopens its log.

What is wrong, or cannot be read or opened, leaves the old one in place. A reload never ends the
server.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import trio

from trio_jobs.access_changes import AccessChanges
from trio_jobs.logs.installation import Logs
from trio_jobs.logs.log_file import open_log_file
from trio_jobs.server.access_control import AccessControl
from trio_jobs.server.sockets import Listeners
from trio_jobs.server.tls import load_certificate
from trio_jobs.settings import Config
from trio_jobs.shutdown.stop import Stop
from trio_jobs.tokens import TokenTable

log = logging.getLogger(__name__)

# Reads or opens files, in a thread. Returns what puts the new ones in place, which is called in the
# event loop. Raises ValueError, whose text names the file.
Read = Callable[[], Callable[[], object]]


class ReloadSignal(Protocol):
    """Where the signals are noted; `trio_jobs.shutdown.other_signals.OtherSignals` is one."""

    async def wait_reload(self) -> None:
        """Wait for a signal that asks for a reload; those that come together count as one."""


async def run_reloads(signal: ReloadSignal, parts: Mapping[str, Read]) -> None:
    """Reload all parts at each signal, for ever. A signal during a reload means once more.

    Args:
        signal: Waited for.
        parts: By their names in the log.

    Cancellation:
        A thread that still reads is left behind; what it reads is dropped.
    """
    # Handlers may use all of Trio's threads.
    limiter = trio.CapacityLimiter(1)
    while True:
        await signal.wait_reload()
        reloaded = []
        for what, read in parts.items():
            try:
                install = await trio.to_thread.run_sync(
                    read, limiter=limiter, abandon_on_cancel=True
                )
            except ValueError as error:
                log.error("reload_failed", extra={"what": what, "reason": str(error)})
            except Exception as error:  # such as no thread to be had: the server must go on
                log.exception("reload_failed", extra={"what": what, "reason": repr(error)})
            else:
                install()
                reloaded.append(what)
        log.info("reloaded", extra={"what": ",".join(reloaded) or "nothing"})


def parts_to_reload(
    config: Config,
    listeners: Listeners,
    access_control: AccessControl,
    access_changes: AccessChanges,
    logs: Logs,
    stop: Stop,
) -> dict[str, Read]:
    """What a reload reads again: the files that the settings name, by absolute paths."""
    parts: dict[str, Read] = {}
    http = config.http
    if config.logging.file is not None:  # first: the lines about the others are in the new file
        parts["log_file"] = partial(_open_log_file, config.logging.file, logs, stop)
    if http.token_file is not None:
        parts["tokens"] = partial(_read_tokens, http.token_file, access_control, access_changes)
    if http.certfile is not None and http.keyfile is not None:
        parts["certificate"] = partial(_read_certificate, http.certfile, http.keyfile, listeners)
    return parts


def _open_log_file(path: str, logs: Logs, stop: Stop) -> Callable[[], object]:
    fd = open_log_file(path)

    def install() -> None:
        stop.move_log(fd)
        logs.reopen(fd)

    return install


def _read_tokens(
    path: str, access_control: AccessControl, access_changes: AccessChanges
) -> Callable[[], object]:
    tokens = TokenTable.of_file(path)

    def install() -> None:
        access_control.tokens = tokens
        access_changes.note()

    return install


def _read_certificate(certfile: str, keyfile: str, listeners: Listeners) -> Callable[[], object]:
    # A context of its own: one that is given a key that does not fit its certificate can shake no
    # hands any more.
    context = load_certificate(certfile, keyfile)

    def install() -> None:
        listeners.tls = context

    return install
