"""The references name everything that there is, and nothing else."""

import argparse
import ast
import dataclasses
import inspect
import re
import signal
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from unittest.mock import Mock

import h11
import pytest

import trio_jobs
import trio_jobs.client
import trio_jobs.testing
from tests.api.support import Api, FakeMetrics
from tests.docs.blocks import DOCS, SOURCE
from tests.support import HandlerRegistry, HandlerSettings, RetrySettings
from trio_jobs import Outcome, cli
from trio_jobs.api import app, event_stream, openapi
from trio_jobs.asgi import make_app
from trio_jobs.asyncio import AsyncioJobs
from trio_jobs.client import AsyncClient, Client, looks, patience, server_requests, slices
from trio_jobs.commands import exit_statuses
from trio_jobs.metrics import JobsCollector
from trio_jobs.setting_type import setting_name, settings_of
from trio_jobs.settings import SECTIONS, PoolSettings
from trio_jobs.shutdown.hard_limit import (
    FAULTHANDLER_AFTER_SECONDS,
    HARD_LIMIT_STATUS,
    SIGALRM_AFTER_SECONDS,
)
from trio_jobs.testing import plugin

REFERENCE = DOCS / "reference"


def rows_of(page: str) -> list[list[str]]:
    """The cells of all tables of a page, without the heads."""
    return rows_in((REFERENCE / page).read_text())


def rows_in(text: str) -> list[list[str]]:
    """The cells of all tables of a text, without the heads."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        else:
            rows.append([])
    # Behind each head comes a line of dashes.
    return [
        row
        for before, row, after in zip([[], *rows], rows, [*rows[1:], []], strict=False)
        if row and set(row[0]) != {"-"} and not (after and set(after[0]) == {"-"})
    ]


def test_every_setting_is_there_with_its_default() -> None:
    documented = {row[0].strip("`"): row[2].strip("`") for row in rows_of("settings.md")}
    defaults = {
        f"{section}.{setting_name(field)}": field.default
        for section, kind in SECTIONS.items()
        for field in dataclasses.fields(kind)
    }
    defaults |= {
        f"handlers.TYPE.retry.{field.name}": field.default
        for field in dataclasses.fields(RetrySettings)
    }
    handlers = {f"handlers.TYPE.{field.name}" for field in dataclasses.fields(HandlerSettings)}

    assert documented.keys() == defaults.keys() | handlers | {"handlers.TYPE"}
    for key, default in defaults.items():
        assert documented[key] == in_toml(default), key


def test_every_range_of_a_setting_is_as_documented() -> None:
    types = {row[0].strip("`"): row[1] for row in rows_of("settings.md")}
    for section, kind in SECTIONS.items():
        for name, setting in settings_of(kind).items():
            if " to " in types[f"{section}.{name}"]:
                low, high = re.findall(r"\d+", setting.values)
                assert types[f"{section}.{name}"] == f"{int(low):,} to {int(high):,}", name


def in_toml(value: object) -> str:
    """A default as the page has it."""
    match value:
        case None:
            return "\N{EN DASH}"
        case bool():
            return str(value).lower()
        case int():
            return f"{value:,}"
        case tuple():
            return ", ".join(map(in_toml, value)) or "[]"
        case _:
            return str(value)


LEVELS = {"debug", "info", "warning", "error", "critical"}


def events_in(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The names of the events that a module logs, and their levels; ``?`` for one that varies."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("RateLimitedWarning"), args=[ast.Constant(str(name))]):
                yield name, "warning"
            case ast.Call(func=ast.Name("Outage"), args=[_, *names]):
                yield from ((text_of(each), "warning") for each in names)
            case ast.Call(
                func=ast.Name("event_record"),
                args=[_, ast.Attribute(attr=level), ast.Constant(str(name)), *_],
            ):
                yield name, level.lower()
            case ast.Call(
                func=ast.Attribute(ast.Name("log"), "makeRecord"),
                args=[_, ast.Attribute(attr=level), _, _, ast.Constant(str(name)), *_],
            ):
                yield name, level.lower()
            case ast.Call(
                func=ast.Attribute(attr="write_final"), args=[_, ast.Attribute(attr=level), *_]
            ):
                yield "the lines of `UnfinishedReport`", level.lower()
            case ast.Call(func=ast.Attribute(ast.Name("log"), "log"), args=[_, message, *_]):
                yield text_of(message), "?"
            case ast.Call(
                func=ast.Attribute(ast.Name("log") | ast.Attribute(attr="_log"), level),
                args=[message, *_],
            ) if level in LEVELS:
                yield text_of(message), level


def text_of(message: ast.expr) -> str:
    match message:
        case ast.Constant(str(text)):
            return text
        case _:
            return ast.unparse(message)


# Those whose names are put together, or told by somebody else.
PUT_TOGETHER = {
    # No worker ends a job as interrupted: a start does, or a stop, with events of their own.
    "f'job_{ending.outcome}'": [
        f"job_{outcome}" for outcome in Outcome if outcome is not Outcome.INTERRUPTED
    ],
    "f'Running on {bound.url}'": ["Running on …"],
    "event": ["jobs_interrupted", "jobs_not_started", "jobs_waiting", "jobs_held"],
    "the lines of `UnfinishedReport`": [
        "unfinished_jobs_not_all_named",
        "leftovers_written",
        "leftovers_not_written",
    ],
    # Those of `RateLimitedWarning` and `Outage`, which are found where these are made.
    "self._event": [],
    "self._goes_on if self._reasons else self._begins": [],
    "self._ends": [],
}


def test_every_log_event_is_there_with_its_level() -> None:
    documented: dict[str, set[str]] = {}
    for row in rows_of("log-events.md"):
        documented.setdefault(row[0].strip("`"), set()).update(row[1].split(", "))
    logged: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for name, level in events_in(ast.parse(path.read_text())):
            for each in PUT_TOGETHER.get(name, [name]):
                logged.setdefault(each, set()).add(level)

    assert documented.keys() == logged.keys()
    for name, levels in logged.items():
        if "?" not in levels:
            assert documented[name] >= levels, name


# The section about the commands that ask a server.
OF_COMMANDS = "Commands that ask a server"

STATUSES_OF_SERVER = {exit_statuses.OK, exit_statuses.BROKEN, exit_statuses.MISTAKEN}

# Of a command that talks to a server: those that a shell shows for SIGINT and SIGTERM.
BY_SIGNALS = {128 + signal.SIGINT, 128 + signal.SIGTERM}


def test_every_exit_status_is_there() -> None:
    of_commands = sections_of("exit-statuses.md")[OF_COMMANDS]
    documented = {int(row[0]) for row in rows_in(of_commands) if row[0].isdigit()}
    of_server = {int(row[0]) for row in rows_of_server() if row[0].isdigit()}

    statuses = {each for name, each in vars(exit_statuses).items() if name.isupper()}
    assert documented == {*statuses, *BY_SIGNALS}
    assert of_server == {*STATUSES_OF_SERVER, HARD_LIMIT_STATUS}


def rows_of_server() -> list[list[str]]:
    """The rows of the page of exit statuses that are about the server."""
    page = (REFERENCE / "exit-statuses.md").read_text()
    return rows_in(page.replace(sections_of("exit-statuses.md")[OF_COMMANDS], ""))


def test_ends_beyond_the_hard_limit_are_there_and_in_the_guarantees() -> None:
    ways = " ".join(row[0] for row in rows_of("exit-statuses.md") if "beyond" in row[0])
    [guarantee] = re.findall(
        r"^\| The hard limit ends.*", (DOCS / "explanation/guarantees.md").read_text(), re.MULTILINE
    )

    for seconds in (FAULTHANDLER_AFTER_SECONDS, SIGALRM_AFTER_SECONDS):
        assert f" {seconds:g} s beyond" in ways
        assert f" {seconds:g} s beyond" in guarantee
    assert "SIGALRM" in ways
    assert "SIGALRM" in guarantee


def sections_of(page: str) -> dict[str, str]:
    """The texts of a page's sections, by their headings."""
    texts = re.split(r"^## (.*)$", (REFERENCE / page).read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def arguments_in(text: str) -> set[str]:
    """What stands in the first column of a text's tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def as_documented(action: argparse.Action) -> str:
    """An argument as the page has it."""
    name = action.option_strings[-1] if action.option_strings else ""
    if action.nargs == 0:
        return name
    value = f"{action.metavar}{'…' if action.nargs in ('+', '*') else ''}"
    return f"{name}[={value}]" if name and action.nargs == "?" else f"{name} {value}".strip()


def test_every_argument_of_every_command_is_there() -> None:
    sections = sections_of("command.md")
    parser = cli.make_parser(print, complete=True)
    [commands] = [each for each in parser._actions if isinstance(each.choices, dict)]
    shared = arguments_in(sections["Which server"])
    assert isinstance(commands.choices, dict)
    for name, command in commands.choices.items():
        arguments = {as_documented(each) for each in command._actions} - {"--help"}
        documented = arguments_in(sections[name])
        if name == "serve":
            arguments |= {"--version", "--help"}  # of the command without a command
        elif name != "migrate":  # it asks no server
            documented |= shared
        assert documented == arguments, name

    own = {as_documented(each) for each in parser._actions if each is not commands}
    assert own == arguments_in(sections["serve"])
    assert sections.keys() > commands.choices.keys() == {"serve", *cli.COMMANDS}


async def test_every_route_is_there() -> None:
    documented = {
        (method, row[0].strip("`").partition(" ")[2])
        for row in rows_of("http.md")
        for method in [row[0].strip("`").partition(" ")[0]]
        if method.isupper()
    }
    existing = {
        (method, re.sub(r"<uuid:job_id>", "{id}", rule.rule))
        for rule in Api(metrics=FakeMetrics()).app.url_map.iter_rules()
        if not re.match(r"/ui/.*\.", rule.rule)  # the files of the page
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert documented == existing


def statuses_in(tree: ast.Module) -> Iterator[int]:
    """The statuses of the errors that a module makes."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Name("Problem" | "MalformedRequestError"),
                args=[ast.Constant(int(status)), *_],
            ):
                yield status


def described_components() -> dict[str, dict[str, object]]:
    """The responses and headers of the OpenAPI document."""
    components: dict[str, dict[str, object]] = openapi.describe(HandlerRegistry({}))["components"]
    return components


# What h11 hints at, beside 400; see the test below it.
OF_H11 = {431, 501}


def test_every_error_of_http_is_there() -> None:
    documented = {int(row[0]) for row in rows_of("http.md") if row[0].isdigit()}
    told = {
        status
        for path in SOURCE.rglob("*.py")
        for status in statuses_in(ast.parse(path.read_text()))
    }

    described = {int(name.removeprefix("Problem")) for name in described_components()["responses"]}
    assert documented == told | OF_H11 | set(app._DETAILS) | described


def test_h11_hints_at_no_other_statuses() -> None:
    hints = {
        int(status)
        for path in Path(h11.__file__).parent.glob("*.py")
        for status in re.findall(r"error_status_hint(?:: int)? ?= ?(\d+)", path.read_text())
    }

    assert hints == OF_H11 | {400}


def test_every_header_of_an_answer_is_there() -> None:
    documented = {
        row[0].strip("`") for row in rows_of("http.md") if re.fullmatch("`[A-Z][A-Za-z-]+`", row[0])
    }

    assert documented == described_components()["headers"].keys() | {
        "Allow",
        "Cache-Control",
        "ETag",
        "Set-Cookie",
    }


@pytest.mark.parametrize(
    "module", [trio_jobs, trio_jobs.testing], ids=lambda module: module.__name__
)
def test_everything_public_is_in_the_python_reference(module: object) -> None:
    text = (REFERENCE / "python.md").read_text()
    name = r"(?:(?:asgi|asyncio|metrics|testing)\.)?(\w+)"
    documented = set(re.findall(rf"^\.\. auto\w+:: trio_jobs\.{name}", text, re.MULTILINE))

    public = {*chain(trio_jobs.__all__, trio_jobs.testing.__all__)}
    others = (make_app, AsyncioJobs, JobsCollector)
    assert documented == {*public, *(each.__name__ for each in others)}


def test_everything_public_of_the_client_is_in_its_reference() -> None:
    text = (REFERENCE / "client.md").read_text()
    documented = re.findall(r"^\.\. auto\w+:: trio_jobs\.client\.(\w+)", text, re.MULTILINE)

    assert sorted(documented) == sorted(trio_jobs.client.__all__)


def test_numbers_of_the_client_are_in_its_reference() -> None:
    rows = rows_of("client.md")
    text = (REFERENCE / "client.md").read_text()

    assert {int(status) for status in re.findall(r"\d{3}", rows[0][0])} == patience.TRY_AGAIN
    assert f"at most {patience._LONGEST_PAUSE:g}" in rows[0][1]
    assert f"after {patience._FIRST_PAUSE} s at first" in rows[1][1]
    assert f"up to {patience._LONGEST_PAUSE:g} s" in rows[1][1]
    assert f"waits for {looks.LONGEST_LOOK} s" in text
    assert f"at most {looks.LONGEST_PAUSE:g} s" in rows[5][1]
    assert f"use {looks.MOST_LOOKS} at the most" in (DOCS / "how-to/client.md").read_text()
    for each in (AsyncClient.as_completed, Client.as_completed):
        assert f"more than {looks.MOST_LOOKS} jobs" in (each.__doc__ or "")


def test_numbers_of_maps_are_in_the_reference_of_the_client() -> None:
    text = (REFERENCE / "client.md").read_text()

    for number in (
        f"and {slices._MAX_LINES}; {slices._MAX_BYTES // 1024} KiB",
        f"| {slices._USUALLY_OPEN}; up to {slices._MOST_OPEN} while",
        f"an open request for {1000 * slices._SOON:g} ms",
        f"beside {slices._USUALLY_OPEN} for {1000 * slices._LATER:g} ms",
        f"less than {1000 * slices._QUICK:g} ms",
        f"a blank line every {server_requests._LONGEST_SILENCE} s",
        f"`in_flight` payloads ({inspect.signature(Client.map).parameters['in_flight'].default})",
    ):
        assert number in text
    assert event_stream.HEARTBEAT == server_requests._LONGEST_SILENCE


def test_grace_period_of_the_plugin_is_that_of_the_setting() -> None:
    grace_period = f"grace_period={PoolSettings().grace_period}"
    texts = [DOCS / "how-to/testing.md", DOCS / "reference/python.md", Path(plugin.__file__)]
    assert all(grace_period in each.read_text() for each in texts)


def test_markers_and_fixtures_of_the_plugin_are_in_the_python_reference() -> None:
    documented = {re.split(r"[`(]", row[0])[1] for row in rows_of("python.md")}
    markers: list[str] = []
    config = Mock(addinivalue_line=lambda _, line: markers.append(re.split(r"\W", line)[0]))
    plugin.pytest_configure(config)
    fixtures = {
        name
        for name, each in vars(plugin).items()
        if name[0] != "_" and type(each) is type(plugin.scheduler_seed)
    }

    assert documented == {*markers, *fixtures}


@pytest.mark.parametrize(
    "module",
    [trio_jobs, trio_jobs.client, trio_jobs.testing],
    ids=lambda module: module.__name__,
)
def test_what_is_returned_is_not_taken_for_a_type(module: object) -> None:
    public = [getattr(module, name) for name in module.__all__]  # type: ignore[attr-defined]
    members = [member for each in public for member in vars(each).values() if callable(member)]
    for each in public + members:
        text = inspect.getdoc(each) or ""
        for line in re.findall(r"^(?:Returns|Yields):\n +(.*)", text, re.MULTILINE):
            # What stands before a colon there Sphinx shows as the type.
            assert ":" not in re.sub(r"`[^`]*`", "", line), each
