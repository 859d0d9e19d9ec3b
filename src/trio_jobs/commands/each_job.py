"""Does the same with each of several jobs; what is wrong with one does not stop the others."""

from collections.abc import Callable, Sequence

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.complaints import complain
from trio_jobs.commands.exit_statuses import OK, UNKNOWN, UNSUCCESSFUL


def run_for_each(ids: Sequence[str], act: Callable[[str], None]) -> int:
    """Call ``act`` with each id, in order.

    Returns:
        The exit status: the largest of those that a job has caused.

    Raises:
        CommandError: ``act`` has raised it for a reason that holds for the other jobs, too.
    """
    status = OK
    for each in ids:
        try:
            act(each)
        except CommandError as error:
            if error.status not in (UNSUCCESSFUL, UNKNOWN):
                raise
            complain(str(error))
            status = max(status, error.status)
    return status
