"""`CallMarks`: memory that the server and a child share: which jobs may begin, which has begun.

The server sends a child several jobs ahead. The child runs them in their order, and looks at this
memory before each one. So the server can take back a job that waits in the child, without a frame
that the child would have to read while it runs another job.

Both sides number the jobs of a child from 1. The order of their steps decides:

- The child writes a job's answer as a whole, and looks at the mark of the next job after that.
- The server forbids a job, and reads the pipe after that. If the answer to the job before is not
  there, the child has not looked yet, and will see the mark: the lock of the pipe orders the two.

Imports no Trio: the child imports this module.
"""

import contextlib
import mmap
import os
from struct import Struct

# Jobs that a child may hold at the same time: each has a mark of its own.
MAX_CALLS = 128

# The number of the last job that has begun; the marks follow it.
_BEGUN = Struct("=Q")

_SIZE = _BEGUN.size + MAX_CALLS


class CallMarks:
    """The shared memory, as one of the two sides sees it.

    Args:
        number: The descriptor of the memory; the caller closes it.
    """

    def __init__(self, number: int) -> None:
        self._memory = mmap.mmap(number, _SIZE)

    @property
    def begun(self) -> int:
        """The last job that the child has begun; 0 for none. For the server, once it has exited."""
        begun: int = _BEGUN.unpack_from(self._memory)[0]
        return begun

    def begin(self, call: int) -> bool:
        """Note that a job begins, unless it is forbidden; in the child.

        Returns:
            Whether it begins.
        """
        if self._memory[_BEGUN.size + call % MAX_CALLS]:
            return False
        _BEGUN.pack_into(self._memory, 0, call)
        return True

    def forbid(self, call: int) -> None:
        """Forbid a job to begin; in the server."""
        self._memory[_BEGUN.size + call % MAX_CALLS] = 1

    def allow(self, call: int) -> None:
        """Allow a job to begin, before it is sent; in the server."""
        self._memory[_BEGUN.size + call % MAX_CALLS] = 0

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


def make_memory() -> int:
    """A descriptor of new memory for `CallMarks`, all of it 0; the caller closes it.

    Raises:
        OSError: There is none.
    """
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("trio-jobs")
    else:
        import tempfile  # few systems need it, and no child

        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    try:
        os.ftruncate(number, _SIZE)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(number)
        raise
    return number
