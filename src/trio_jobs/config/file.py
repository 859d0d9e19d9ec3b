"""The file: ``config.toml``, or whatever it is called."""

import tomllib
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trio_jobs.bounded_read import read_within
from trio_jobs.config.keys import KEYS, PATHS_BY_NAME, keys_of
from trio_jobs.config.messages import ConfigError, cut, hint, shown, shown_name
from trio_jobs.settings import HandlerSettings

_HANDLERS: Final = "handlers"
_MAX_BYTES: Final = 2**20


def read_file(path: Path) -> tuple[dict[str, object], dict[str, HandlerSettings] | None]:
    """Read and check a whole file.

    Returns:
        Its values by path (``pool.workers``), and its handlers by job type, if it has the table.

    Raises:
        ConfigError: It cannot be read, is not TOML, or anything in it is wrong or unknown.
    """
    file = str(path) if str(path).isprintable() else repr(str(path))
    values: dict[str, object] = {}
    handlers = None
    for section, table in _parse(path, file).items():
        if section not in KEYS and section != _HANDLERS:
            sections = [*KEYS, _HANDLERS]
            near = hint(section, {**PATHS_BY_NAME, **{name: name for name in sections}})
            raise ConfigError(
                f"{file}: {shown_name(section)} is not a section"
                f"{near or ', known: ' + ', '.join(sections)}"
            )
        if not isinstance(table, dict):
            # Not the items of an array of tables: one of them may be a secret.
            got = "an array" if isinstance(table, list) else shown(table)
            raise ConfigError(f"{file}: {section} must be a table [{section}], got {got}")
        if section == _HANDLERS:
            handlers = _read_handlers(table, file)
        else:
            values |= _read_section(section, table, file)
    return values, handlers


def _parse(path: Path, file: str) -> dict[str, Any]:
    try:
        data = read_within(path, max_bytes=_MAX_BYTES)
        text = data.decode("utf-8-sig")  # Windows' editors begin a file with a BOM
    except OSError as error:
        raise ConfigError(f"{file}: must be a readable file, got: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ConfigError(f"{file}: must be UTF-8, got byte 0x{byte:02x} in line {line}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: must be TOML, got: {cut(str(error))}") from error
    except ValueError as error:  # int() says so, not tomllib
        raise ConfigError(f"{file}: must be TOML, got: an integer of too many digits") from error
    except RecursionError as error:
        raise ConfigError(f"{file}: must be TOML, got: arrays or tables nested too deep") from error


def _read_section(section: str, table: Mapping[str, object], file: str) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, value in table.items():
        key = KEYS[section].get(name)
        if key is None:
            near = hint(f"{section}.{name}", PATHS_BY_NAME) or hint(name, PATHS_BY_NAME)
            raise ConfigError(f"{file}: {section}.{shown_name(name)} is not a setting{near}")
        values[key.path] = key.convert(value, where=f"{file}: {key.path}")
    return values


def _read_handlers(table: Mapping[str, object], file: str) -> dict[str, HandlerSettings]:
    # A server that refuses every job is a mistake; the demonstration runs without the table.
    if not table:
        raise ConfigError(f"{file}: [handlers] must name at least one handler, got none")
    if "" in table:
        raise ConfigError(f"{file}: [handlers] takes non-empty job types, got ''")
    return {
        job_type: _read_handler(value, where=f"{file}: handlers.{shown_name(job_type)}")
        for job_type, value in table.items()
    }


def _read_handler(value: object, *, where: str) -> HandlerSettings:
    """A function's name, or a table of its own: ``[handlers.email]``."""
    keys = keys_of(_HANDLERS, HandlerSettings)
    if not isinstance(value, dict):
        settings: dict[str, Any] = {"call": keys["call"].convert(_identifier(value), where=where)}
        return HandlerSettings(**settings)
    for name in value:
        if name not in keys:
            raise ConfigError(
                f"{where}.{shown_name(name)} is not a setting"
                f"{hint(name, {known: known for known in keys})}"
                f", known: {', '.join(keys)} (a type with a dot in it is written in quotes)"
            )
    if "call" not in value:
        raise ConfigError(f"{where} must have a function's name as its key call, got none")
    value = {**value, "call": _identifier(value["call"])}
    settings = {
        name: keys[name].convert(each, where=f"{where}.{name}") for name, each in value.items()
    }
    return HandlerSettings(**settings)


def _identifier(value: object) -> object:
    """A function's name as Python reads it in a program: whichever way its letters are composed."""
    return unicodedata.normalize("NFKC", value) if isinstance(value, str) else value
