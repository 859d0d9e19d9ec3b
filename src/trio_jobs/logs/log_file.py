"""`open_log_file`: opens the file that takes the log in place of standard error."""

import os
import stat
from pathlib import Path


def open_log_file(path: str) -> int:
    """Open the file to append to it, or create it with the mode 0640; its descriptor.

    Raises:
        ValueError: It cannot be opened, or is no regular file. The text names it.
    """
    # Not blocking: the open of a FIFO would wait for its reader, perhaps for ever.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
    try:
        fd = os.open(path, flags, 0o640)
    except OSError as error:
        raise ValueError(f"cannot open the log file {path!r}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError(f"the log file {path!r} is no regular file")
    return fd


def check_log_file(path: str) -> None:
    """Check that a start could open the file, and create none: its owner is perhaps another user.

    Raises:
        ValueError: See `open_log_file`.
    """
    if os.path.exists(path):  # noqa: PTH110 - Path's raises for a folder of another user
        os.close(open_log_file(path))
    elif not os.access(Path(path).absolute().parent, os.W_OK | os.X_OK, effective_ids=True):
        raise ValueError(f"cannot create the log file {path!r} in its folder")
