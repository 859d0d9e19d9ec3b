"""The types of jobs on the command line."""

from argparse import ArgumentParser, ArgumentTypeError


def add_type_option(parser: ArgumentParser, help: str) -> None:  # noqa: A002  (argparse's name)
    """Add ``--type``, which may be repeated: the types are a list, empty without one."""
    parser.add_argument(
        "--type",
        metavar="T",
        type=job_type,
        action="append",
        default=[],
        help=f"{help}; may be repeated",
    )


def job_type(text: str) -> str:
    """A job's type.

    Raises:
        ArgumentTypeError: The server cannot be sent it.
    """
    try:
        text.encode()
    except UnicodeEncodeError:  # the command line held other bytes
        raise ArgumentTypeError(f"expected the type of a job in UTF-8, got {text!r}") from None
    return text
