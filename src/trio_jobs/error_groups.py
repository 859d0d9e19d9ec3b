"""`without_groups`: the error that nurseries have put groups around."""


def without_groups(error: BaseException) -> BaseException:
    """The one error inside the groups that nurseries put around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
