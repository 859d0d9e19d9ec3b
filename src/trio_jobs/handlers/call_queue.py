"""`CallQueue`: the jobs that wait for a child process, and which child gets which of them.

Every method is a plain `def`: a job is with one child at the most.
"""

from collections import deque
from collections.abc import Callable, Sequence
from math import ceil

from trio_jobs.handlers.child_call import ChildCall
from trio_jobs.handlers.child_handle import ChildHandle
from trio_jobs.handlers.sent_calls import AHEAD_CALLS


class CallQueue:
    """The jobs that wait for a child, in order, and the children that run.

    A job goes to an idle child, the one that became idle last. If there is none, the job's task
    starts one, unless there are enough. Otherwise the job is sent ahead to a child that has
    room for it, or waits.

    Args:
        most: How many children there may be.
        taken: Called when a child gets a job whose task is still waiting to start a child for it.

    Attributes:
        startable: How many more children may be started.
        idle: The children without a job; the last one became idle last.
    """

    def __init__(self, most: int, *, taken: Callable[[], object]) -> None:
        self.startable = most
        self._taken = taken
        self.idle: list[ChildHandle] = []
        self._children: list[ChildHandle] = []
        self._waiting: deque[ChildCall] = deque()

    def add(self, call: ChildCall) -> None:
        """Let a new job wait for a child, or give it to one.

        If each child has a job behind the one that it runs, the new job waits for the next answer:
        then all that have come meanwhile are sent together.
        """
        self._waiting.append(call)
        self.hand_out(most_ahead=1)

    def put_back(self, calls: Sequence[ChildCall]) -> None:
        """Let jobs wait that have been handed out, before all others."""
        if calls:
            self._waiting.extendleft(reversed(calls))
            self.hand_out()

    def take(self, call: ChildCall) -> bool:
        """Take a job out; False if it does not wait."""
        try:
            self._waiting.remove(call)
        except ValueError:
            return False
        return True

    def join(self, child: ChildHandle, call: ChildCall) -> None:
        """Give jobs to a new child, this one first."""
        self._children.append(child)
        self._waiting.appendleft(call)
        self._fill(child)
        self.hand_out()

    def leave(self, child: ChildHandle) -> None:
        """Give no more jobs to this child."""
        if child in self._children:
            self._children.remove(child)
        if child in self.idle:
            self.idle.remove(child)

    def note_ended(self) -> None:
        """Note that a child has ended, or was not started."""
        self.startable += 1
        self.hand_out()

    def note_change(self, child: ChildHandle) -> None:
        """Note that a child has answered; give it more."""
        if child.calls.returned:
            self._waiting.extendleft(reversed(child.calls.returned))
            child.calls.returned.clear()
        if not child.calls.live and child in self._children and child not in self.idle:
            self.idle.append(child)
        self.hand_out()

    def hand_out(self, *, most_ahead: int = AHEAD_CALLS // 2) -> None:
        """Give jobs to the children that have room, or let their tasks start children.

        Args:
            most_ahead: A child with more jobs than this gets none.
        """
        while self._waiting:
            if self.idle:
                child = self.idle.pop()
                if not child.has_ended():  # one that has ended is reported soon: `note_ended`
                    self._fill(child)
            elif self.startable and (call := self._next_starter()) is not None:
                self.startable -= 1
                self._waiting.remove(call)
                call.starts = True
                call.wake()
            else:
                break
        while self._waiting:
            call = self._waiting[0]
            wanting = [
                child for child in self._children if child.calls.wants_more(call, most_ahead)
            ]
            if not wanting or not self._fill(min(wanting, key=_seconds_ahead)):
                break

    def _next_starter(self) -> ChildCall | None:
        # A job whose task has found that none can be started waits for a child as the others do.
        return next((call for call in self._waiting if not call.starts), None)

    def _fill(self, child: ChildHandle) -> bool:
        """Give a child as many jobs as it has room for, but no more than its share.

        Returns:
            Whether there was one.
        """
        waiting = self._waiting
        share = ceil(len(waiting) / len(self._children))
        calls: list[ChildCall] = []
        while waiting and len(calls) < share and child.has_room(waiting[0]):
            call = waiting.popleft()
            child.calls.add(call)
            calls.append(call)
            if call.starts:
                self._taken()
        if calls:
            child.send(calls)
        return bool(calls)


def _seconds_ahead(child: ChildHandle) -> float:
    return child.calls.seconds_ahead
