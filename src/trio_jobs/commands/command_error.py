"""Why a command ends without having done what was asked."""


class CommandError(Exception):
    """A command ends: the text is one line for a person.

    Args:
        text: The line, without the command's name.
        status: The exit status.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status
