"""`PausedTypes`: the types whose jobs no worker begins. It holds these jobs until the resume."""

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Protocol

import trio

from trio_jobs.handlers.registry import DEFAULT, HandlerRegistry
from trio_jobs.job import Ending, Job, JobStatus, Later
from trio_jobs.pool.limited_admission import LimitedAdmission
from trio_jobs.pool.schedule import Schedule
from trio_jobs.pool.store import Store, StoreMoves

# Held jobs that become due between two checkpoints: about a millisecond's work.
_STRIDE = 200


class Layer(Protocol):
    """What makes the workers' moves by `moves`, which can be replaced."""

    moves: StoreMoves


class PausedTypes:
    """The moves in the store while types are paused; otherwise no move passes through it.

    A job of a paused type that a worker comes to is held: it stays pending, and has no worker, no
    slot and no copy of its id in the channel. The schedule counts it among the jobs that wait. A
    resume makes the held jobs due, in the order in which workers came to them; then they wait for
    slots in turn with all others. A running job goes on, and is held if it wants another attempt.

    A job whose cancel was requested is not held: its worker completes it without running it.

    Args:
        store: The jobs.
        layer: Makes its moves by this object while a type is paused.
        admission: Refuses jobs of a paused type while too many jobs wait.
        schedule: The jobs that wait.
        handlers: Their names are the types that can be paused. ``default`` stands for all types
            without a handler of their own.
        notes: Called with each job that is held.
        changed: Called with the paused types after each change.
    """

    def __init__(
        self,
        store: Store,
        layer: Layer,
        admission: LimitedAdmission,
        schedule: Schedule,
        handlers: HandlerRegistry,
        notes: Iterable[Callable[[str], object]] = (),
        changed: Callable[[Sequence[str]], object] | None = None,
    ) -> None:
        self.disk = layer.moves.disk
        self._moves = layer.moves
        self._store = store
        self._layer = layer
        self._admission = admission
        self._schedule = schedule
        self._types: Collection[str] = handlers.table
        self._notes = tuple(notes)
        self._changed = changed
        self._paused: set[str] = set()
        # By type, in the order of their claims. A job whose cancel was requested leaves it when a
        # worker comes to it again.
        self._held: dict[str, dict[str, None]] = {}
        self.pause(handlers.paused)

    @property
    def types(self) -> list[str]:
        """The paused types, sorted."""
        return sorted(self._paused)

    @property
    def count(self) -> int:
        """How many jobs are held here."""
        return sum(map(len, self._held.values()))

    def select(self, types: Iterable[str] | None) -> set[str]:
        """Check the names of types, and return them; None: all types.

        Raises:
            ValueError: There is no handler for one of them; the text follows its name.
        """
        if types is None:
            return set(self._types)
        for each in types:
            if each not in self._types:
                known = ", ".join(map(repr, sorted(self._types)))
                raise ValueError(f"must be types with a handler ({known}), got {each[:100]!r}")
        return set(types)

    def pause(self, types: Iterable[str]) -> None:
        """Hold the jobs of these types from now on. Idempotent."""
        self._paused.update(types)
        if self._paused:
            self._layer.moves = self
            self._admission.look_at(self)
        self._note_change()

    async def resume(self, types: Iterable[str]) -> None:
        """Let the jobs of these types go on, the held ones in order. Idempotent.

        Cancellation:
            Not acted on.

        Checkpoints:
            One after each millisecond's work, and one at the end.
        """
        types = sorted(types)
        self._paused.difference_update(types)
        self._note_change()
        with trio.CancelScope(shield=True):
            for type_ in types:
                held = self._held.get(type_, {})
                while held and type_ not in self._paused:  # it may be paused again
                    for job_id in list(islice(held, _STRIDE)):
                        del held[job_id]
                        self._schedule.advance(job_id)
                    await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        if not self._paused and not any(self._held.values()):
            self._layer.moves = self._moves
            self._admission.look_at(None)

    def holds(self, job: Job) -> bool:
        """Whether a pending job is held here. Any thread may call this."""
        return job.id in self._held.get(self._type_of(job.type), ())

    def is_full(self, type: str) -> bool:  # noqa: A002  (the field's name)
        """Whether one more job of this type would be held although too many jobs wait."""
        return self._type_of(type) in self._paused and not self._schedule.room

    def claim(self, job_id: str) -> Job | None:
        """See `Moves.claim`; holds the job if its type is paused."""
        job = self._store.find_nowait(job_id)
        type_ = self._type_of(job.type)
        held = self._held.setdefault(type_, {})
        is_pending = job.status is JobStatus.PENDING and not job.cancel_requested
        if is_pending and type_ in self._paused:
            held[job_id] = None
            if not self._schedule.waits(job_id):
                self._schedule.hold(job)
            for note in self._notes:
                note(job_id)
            return None
        held.pop(job_id, None)
        return self._moves.claim(job_id)

    def complete(
        self,
        job_id: str,
        ending: Ending,
        *,
        duration: float | None = None,
        show: Callable[[Job], None] | None = None,
    ) -> Job:
        """See `StoreMoves.complete`."""
        return self._moves.complete(job_id, ending, duration=duration, show=show)

    def postpone(self, job_id: str, later: Later) -> Job:
        """See `Moves.postpone`."""
        return self._moves.postpone(job_id, later)

    def release(self, job_id: str) -> None:
        """See `Moves.release`."""
        self._moves.release(job_id)

    def _note_change(self) -> None:
        if self._changed is not None:
            self._changed(self.types)

    def _type_of(self, type_: str) -> str:
        return type_ if type_ in self._types else DEFAULT
