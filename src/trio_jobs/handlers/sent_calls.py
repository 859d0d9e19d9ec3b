"""`SentCalls`: the jobs that a child process has, in the order in which it runs them.

The server sends jobs ahead, and takes the answers as they come. Only the first job without an
answer can have begun: `SentCalls.take_back` gets hold of those behind it, by `CallMarks`.
"""

import time
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import trio

from trio_jobs.error_text import Failure
from trio_jobs.handlers.child_call import ChildCall
from trio_jobs.handlers.frames import TIMES, FrameError

if TYPE_CHECKING:
    from trio_jobs.handlers.call_marks import CallMarks

# Seconds of work that a child gets ahead at most. Longer jobs do not wait behind one another: the
# time in which the server answers is short beside theirs.
AHEAD_SECONDS = 0.005

# Jobs that a child gets ahead at most; half as many as `CallMarks` has marks.
AHEAD_CALLS = 64

# Seconds that the first job runs until those behind it are taken back. Four times what all of them
# take by what is expected: the first one has turned out to be longer than the others of its type.
LONG_SECONDS = 0.02


class SentCalls:
    """The jobs of one child.

    Args:
        drain: Takes all answers that have arrived.

    Attributes:
        marks: By which a job is forbidden to begin; None before the child's start and at its end.
        max_bytes: The length of frames that surely fit into the pipe together; with 0, no job is
            sent ahead.
        live: How many jobs there are that are to be answered.
        seconds_ahead: How long they run together, by what is expected.
        returned: The jobs that the child has answered without running them; the caller takes them
            out.
    """

    def __init__(self, drain: Callable[[], None]) -> None:
        self.marks: CallMarks | None = None
        self.max_bytes = 0
        self.live = 0
        self.seconds_ahead = 0.0
        self.returned: list[ChildCall] = []
        self._drain = drain
        self._bytes = 0  # of the frames of these jobs
        # None stands for a job that was taken back: the child has still to skip it.
        self._sent: deque[ChildCall | None] = deque()
        self._first_number = 1
        self._since = 0.0  # when the first one became the first
        self._first_ended: float | None = None  # when its function ended

    def __contains__(self, call: object) -> bool:
        return call in self._sent

    def __len__(self) -> int:
        """How many jobs have no answer, those that were taken back among them."""
        return len(self._sent)

    @property
    def first(self) -> ChildCall | None:
        """The first job without an answer; None if there is none, or it was taken back."""
        return self._sent[0] if self._sent else None

    @property
    def has_answered(self) -> bool:
        """Whether the child has answered a job."""
        return self._first_number > 1

    @property
    def too_long_at(self) -> float | None:
        """When the first job has run for so long that others need not wait behind it.

        By Trio's clock; None if no job is behind it.
        """
        return self._since + LONG_SECONDS if self.live > 1 else None

    @property
    def first_has_ended(self) -> bool:
        """Whether the first job's function has ended; the rest of its answer is on its way."""
        return self._first_ended is not None

    def is_first(self, call: ChildCall) -> bool:
        """Whether the job is the first one that is to be answered."""
        return next((each for each in self._sent if each is not None), None) is call

    # Jobs on their way to the child.

    def has_room(self, call: ChildCall) -> bool:
        """Whether the child can get this job now: it has none, or all of them are short."""
        return not self.live or (
            len(self._sent) == self.live < AHEAD_CALLS
            and self.seconds_ahead + _expected(call) <= AHEAD_SECONDS
            and self._bytes + len(call.frame) <= self.max_bytes
        )

    def wants_more(self, call: ChildCall, most: int) -> bool:
        """Whether half of what the child had ahead is gone, and this job has room behind the rest.

        So the server sends jobs together, not one after each answer. None waits behind a job that
        has run for long.

        Args:
            call: The job.
            most: If the child has more jobs than this, it wants none.
        """
        return (
            0 < self.live <= most
            and self.seconds_ahead <= AHEAD_SECONDS / 2
            and self.has_room(call)
            and trio.current_time() - self._since <= LONG_SECONDS
        )

    def add(self, call: ChildCall) -> None:
        """Take in a job for which there is room; the caller sends it."""
        assert self.marks is not None  # noqa: S101 - for the type checker
        self.marks.allow(self._first_number + len(self._sent))
        self._sent.append(call)
        call.seconds = _expected(call)
        self.live += 1
        self.seconds_ahead += call.seconds
        self._bytes += len(call.frame)

    def note_sent(self, calls: Collection[ChildCall]) -> None:
        """Note that jobs have been sent: the first one begins, if the child had none."""
        if len(self._sent) == len(calls):
            self._begin_first(trio.current_time())

    def take_back(self, calls: Collection[ChildCall] | None = None) -> list[ChildCall]:
        """Take back jobs that have not begun, so that the child never begins them.

        Args:
            calls: The jobs; None for all. The first one stays: it may have begun.

        Returns:
            Those that were taken back.
        """
        if self.marks is None:
            return []
        for index, call in enumerate(self._sent):
            if call is not None and (calls is None or call in calls):
                self.marks.forbid(self._first_number + index)
        # Forbid first, read then: the first job that has no answer now has none before which the
        # child could have looked at the next one's mark.
        self._drain()
        back = []
        for index, call in enumerate(self._sent):
            if index and call is not None and (calls is None or call in calls):
                self._sent[index] = None
                self._forget(call)
                back.append(call)
        return back

    # The answers.

    def note_end(self, body: bytes) -> None:
        """Note when the first job's function ended.

        Raises:
            FrameError: No function runs, or this is no time.
        """
        first = self.first
        if first is None or self._first_ended is not None or len(body) != TIMES.size:
            raise FrameError("a time is not expected")
        when, seconds = TIMES.unpack(body)
        self._first_ended = at = trio.current_time() - (time.perf_counter() - when)
        first.running.end(at)
        first.pace.note(seconds)

    def answer(self, answer: bytes | Failure) -> None:
        """Give the first job its answer.

        Raises:
            FrameError: No function runs.
        """
        first = self.first
        if first is None:
            raise FrameError("an answer is not expected")
        ended, self._first_ended = self._first_ended, None
        first.answer = answer
        self._forget(first)
        first.wake()
        self._next(trio.current_time() if ended is None else ended)

    def skip(self) -> None:
        """Note that the child has not begun the first job, and never will.

        Raises:
            FrameError: There is no job.
        """
        if not self._sent:
            raise FrameError("a skipped job is not expected")
        first = self._sent[0]
        if first is not None:  # it became the first one while it was forbidden
            first.running.take_back_start()
            self._forget(first)
            self.returned.append(first)
        self._next(trio.current_time())

    # The child's end.

    def clear(self) -> None:
        """Forget all jobs: what becomes of them is decided."""
        for call in self._sent:
            if call is not None:
                self._forget(call)
        self._sent.clear()
        self.returned.clear()

    def left_behind(self) -> tuple[list[ChildCall], list[ChildCall]]:
        """The job in which a child has died, and those that it has not begun; it has none then.

        Behind an answer that cannot be understood, it may have begun several.
        """
        begun = 0 if self.marks is None else self.marks.begun
        died: list[ChildCall] = []
        others = self.returned[:]
        for number, call in enumerate(self._sent, self._first_number):
            if call is not None:
                (died if number <= begun else others).append(call)
        self.clear()
        return died, others

    def _next(self, now: float) -> None:
        self._sent.popleft()
        self._first_number += 1
        self._begin_first(now)

    def _begin_first(self, now: float) -> None:
        """Let the time of the first job begin, unless its frame is not yet sent."""
        self._since = now
        if self._sent and (first := self._sent[0]) is not None and not first.is_unsent:
            first.begin(now)

    def _forget(self, call: ChildCall) -> None:
        self.live -= 1
        self.seconds_ahead = self.seconds_ahead - call.seconds if self.live else 0.0
        self._bytes -= len(call.frame)


def _expected(call: ChildCall) -> float:
    """How many seconds a job takes; a job that is alone takes all there are."""
    seconds = call.pace.seconds
    return AHEAD_SECONDS if call.alone or seconds is None else seconds
