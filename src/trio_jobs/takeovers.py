"""What user code may take from the server, and how the server notices and takes it back.

Signals, the log, the event loop's wakeup descriptor: a handler's module may change each of them
at import, and a handler while it runs. The server notices a change only when the caller looks.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    taken: Callable[[], Iterable[str]]
    put_back: Callable[[], object]
    costly: bool


class Takeovers:
    """Looks whether the server still has what its guarantees need, and puts back what is gone.

    Each part of the server adds what it needs. `check` looks, in the main thread only: after the
    import of a module, and before the event loop waits.
    """

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        # By what was taken: how often, and the modules or job types that a warning has named.
        self._times: dict[str, int] = {}
        self._named: dict[str, set[str]] = {}

    def add(
        self,
        what: str,
        *,
        intact: Callable[[], bool],
        put_back: Callable[[], object],
        costly: bool = False,
    ) -> None:
        """Watch over one thing, named ``what`` in the warning; for the rest see `add_group`."""
        self.add_group(taken=lambda: () if intact() else (what,), put_back=put_back, costly=costly)

    def add_group(
        self,
        *,
        taken: Callable[[], Iterable[str]],
        put_back: Callable[[], object],
        costly: bool = False,
    ) -> None:
        """Watch over several things that one call of ``taken`` covers.

        Args:
            taken: Returns the names of the things that are gone. Called at each turn of the event
                loop, so it costs well under a microsecond.
            put_back: Puts back all of them; the warning comes afterwards.
            costly: Whether ``taken`` costs more. A busy event loop then looks only when it is
                about to wait.
        """
        self._parts.append(_Part(taken=taken, put_back=put_back, costly=costly))

    def check(
        self,
        *,
        module: str | None = None,
        job_types: Callable[[], Iterable[str]] = tuple,
        earlier_job_types: Iterable[str] = (),
        costly: bool = True,
    ) -> None:
        """Put back what is gone, and warn of it in one line.

        Never raises: a part that fails is logged, and the others are looked at.

        Args:
            module: The module that has just been imported.
            job_types: Returns the types of the jobs that may have run since the last look. Called
                only for the warning.
            earlier_job_types: Types of jobs that ended since the last look at the costly parts.
                The warning of a costly part names them as well.
            costly: Whether the costly parts are looked at, too.
        """
        gone: list[str] = []
        names = {module} if module is not None else None
        for part in self._parts:
            if part.costly and not costly:
                continue
            taken: tuple[str, ...] = ()
            try:
                taken = tuple(part.taken())
                if not taken:
                    continue
                part.put_back()
            except Exception:
                what = ",".join(taken)
                if (times := self._times_to_tell(f"not {what}", set())) is not None:
                    log.error("not_taken_back", exc_info=True, extra={"what": what, **times})
                continue
            gone += taken
            names = set(job_types()) if names is None else names
            if part.costly:
                names.update(earlier_job_types)
        if not gone or names is None:
            return
        what = ",".join(gone)
        if (times := self._times_to_tell(what, names)) is not None:
            # LogRecord has a `module` of its own.
            by = "job_types" if module is None else "module_name"
            fields = {"what": what, by: ",".join(sorted(names)), **times}
            log.warning("taken_back", extra=fields)

    def _times_to_tell(self, what: str, names: set[str]) -> dict[str, object] | None:
        """The warning's field with the number of times; None if the warning would only repeat.

        User code may take a thing at each turn of the event loop, for ever.
        """
        times = self._times[what] = self._times.get(what, 0) + 1
        named = self._named.setdefault(what, set())
        if times & (times - 1) and names <= named:  # no power of two, and no new name
            return None
        named |= names
        return {"times": times} if times > 1 else {}


class TakesBackBeforeWaiting(trio.abc.Instrument):
    """Looks at each turn of the event loop: it must not wait while a signal cannot wake it."""

    def __init__(
        self,
        takeovers: Takeovers,
        job_types: Callable[[], Iterable[str]],
        forget: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Prepare the looks of one run.

        Args:
            takeovers: What is looked at.
            job_types: The types of the running jobs, and of those that ended since ``forget``.
            forget: Called after each look; returns the types of the ended jobs.
        """
        self._check = takeovers.check
        self._job_types = job_types
        self._forget = forget
        # The types of the jobs that have ended since the last look at the costly parts.
        self._earlier: set[str] = set()

    def before_io_wait(self, timeout: float) -> None:
        """Look; a loop that has more to do at once leaves out the costly parts."""
        is_whole = timeout > 0
        self._check(job_types=self._job_types, earlier_job_types=self._earlier, costly=is_whole)
        self._earlier.update(self._forget())
        if is_whole:
            self._earlier.clear()
