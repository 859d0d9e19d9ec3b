"""Messages of the command: one line each, on standard error.

Nothing heavy is imported here: the server's command complains, too.
"""

import contextlib
import sys

# Characters: some lines on a terminal.
_LONGEST = 2_000


def complain(text: str) -> None:
    """Write one bounded line; of what is not printable it has blanks."""
    # It may be the text of an error that a handler module raised, or that a server has sent.
    line = "".join(char if char.isprintable() else " " for char in text[:_LONGEST])
    # An error here must not change the status: standard error may be closed (then it is None), on
    # a full disk, or an object of user code.
    with contextlib.suppress(Exception):
        sys.stderr.write(f"trio-jobs: {line}\n")
