"""Query strings: what is in one, and that routes without parameters refuse any."""

from urllib.parse import parse_qsl

from quart import Blueprint, request

from trio_jobs.api.error_handlers import Problem

_MAX_PARAMETERS = 100


def read_parameters(text: bytes) -> list[tuple[str, str]]:
    """The names and values in a query string.

    Raises:
        Problem: 400, it cannot be read.
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
    """One that the path does not have."""
    has = f"known: {', '.join(known)}" if known else "this path has none"
    return Problem(400, f"unknown query parameter {name[:100]!r}; {has}")


def refuse_parameters(routes: Blueprint, *, except_on: str) -> None:
    """Answer 400 where there are parameters, on all of these routes but one.

    Args:
        routes: The routes.
        except_on: The name of the function that reads them itself.
    """

    @routes.before_request
    async def refuse() -> None:
        if f"{request.endpoint}".endswith(f".{except_on}"):
            return
        for name, _ in read_parameters(request.query_string):
            raise unknown_parameter(name)
