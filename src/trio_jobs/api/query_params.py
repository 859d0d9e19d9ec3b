"""Query strings: the names and values in one, and the refusal of unknown names."""

from urllib.parse import parse_qsl

from trio_jobs.problem_details import Problem

_MAX_PARAMETERS = 100


def read_parameters(text: bytes) -> list[tuple[str, str]]:
    """The names and values in a query string.

    Raises:
        Problem: 400, the query string is malformed.
    """
    try:
        return parse_qsl(
            text.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_PARAMETERS,
        )
    except ValueError as error:
        raise Problem(400, f"the query string cannot be read: {error}") from None


def unknown_parameter(name: str, *known: str) -> Problem:
    """The refusal of a name that the path does not have."""
    has = f"known: {', '.join(known)}" if known else "this path has none"
    return Problem(400, f"unknown query parameter {name[:100]!r}; {has}")
