"""`Resources`: what belongs to the process that serves, and not to the pool."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trio_jobs.leftovers import Leftovers
from trio_jobs.logs.installation import Logs
from trio_jobs.opened_store import OpenStore
from trio_jobs.server.sockets import Listeners
from trio_jobs.service_manager import ServiceManager
from trio_jobs.shutdown.other_signals import OtherSignals
from trio_jobs.shutdown.stop import Stop
from trio_jobs.takeovers import Takeovers
from trio_jobs.tokens import TokenTable

if TYPE_CHECKING:  # needs the extra
    from trio_jobs.tracing import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Opened by the process before `main` runs, and closed after it.

    Attributes:
        listeners: Bound, not yet listening.
        stop: Counts the signals, and ends the process if a stop takes too long.
        logs: Where the unfinished jobs are named.
        open_store: Opens the store for the jobs.
        tokens: Of which each request must carry one; None asks for none.
        folder: A descriptor of the folder that child processes start in; None: they start in
            this process's current folder.
        other_signals: Notes the signals that ask for a reload.
        service_manager: Told when connections are accepted, and when the stop begins.
        takeovers: Asked at each turn of the event loop to put back what user code has replaced,
            such as a signal handler; None without the check.
        leftovers: Writes the unfinished jobs to a file; its thread has been started. None without
            such a file.
        tracing: Makes spans of submissions and attempts; None without tracing.
    """

    listeners: Listeners
    stop: Stop
    logs: Logs
    open_store: OpenStore
    tokens: TokenTable | None = None
    folder: int | None = None
    other_signals: OtherSignals = field(default_factory=OtherSignals)
    service_manager: ServiceManager = field(default_factory=ServiceManager)
    takeovers: Takeovers | None = None
    leftovers: Leftovers | None = None
    tracing: "Tracing | None" = None
