"""The configuration: read once at the start, checked completely, frozen from then on.

The command line overrides the environment, the environment the file, the file the defaults. A
wrong value or an unknown name is refused in each source, even if another source overrides it. Only
an unknown environment variable that begins with no section's name is a warning.
"""

import json
import os
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from trio_jobs.bounded_read import may_be_there, read_within
from trio_jobs.setting_type import ConfigError, Setting, setting_name, settings_of
from trio_jobs.settings import SECTIONS, SETTINGS, Config, HandlerSettings, RetrySettings
from trio_jobs.shown_value import cut, shown

_DEFAULT_FILE: Final = Path("config.toml")
_MAX_FILE_BYTES: Final = 2**20
_HANDLERS: Final = "handlers"
_PREFIX: Final = "TRIO_JOBS_"

# The variable of clients and commands that may stand beside the server's. Their TRIO_JOBS_TOKEN may
# not: a server that was meant to ask for it would let everybody in.
_OF_CLIENTS: Final = "URL"

# Settings by the names that people give them: without the section, or as other servers do.
_PATHS_BY_NAME: Final[Mapping[str, str]] = {
    **{name: path for path in SETTINGS for name in (path, path.partition(".")[2])},
    **dict.fromkeys(("host", "port"), "http.bind"),
}
# How alike two names must be for a hint, from 0 to 1. With less, http.port resembles http.certfile.
_ALIKE: Final = 0.7

# Plain decimals. No sign +, blanks, 1_000, 0x10, 1e3, inf.
_NUMBER: Final = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?")
# Words with one meaning each; y or f may mean anything.
_BOOLEANS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}

# Kubernetes sets these in every pod beside a service named trio-jobs, or trio-jobs-http. A bare
# ..._PORT is among them if it is a URL; TRIO_JOBS_HTTP_PORT=9000 is a user's mistake.
_SERVICE_LINK: Final = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=.*"
    r"|(.+_)?PORT=(tcp|udp|sctp)://.+",
    re.DOTALL,
)


def load_config(
    path: Path | None, *, environment: Mapping[str, str], overrides: Mapping[str, str | None]
) -> Config:
    """Read, check and merge all sources. Touches nothing but the one file.

    Args:
        path: The file, which must exist. None takes ``config.toml`` in the current folder if it
            is there.
        environment: Usually ``os.environ``.
        overrides: The command line's, by path: ``{"pool.workers": "4"}``. None means "not given".

    Raises:
        ConfigError: A value is wrong or a name unknown, overridden or not.
    """
    if path is None and may_be_there(_DEFAULT_FILE):
        path = _DEFAULT_FILE
    elif path is None and _is_folder_removed():
        # Without its file the server would run the demonstration.
        raise ConfigError(f"the current folder was removed, and {_DEFAULT_FILE} with it")
    values, handlers = ({}, None) if path is None else _read_file(path)
    in_environment, warnings = _read_environment(environment)
    values |= in_environment
    for name, text in overrides.items():
        if text is not None:
            values[name] = _parse(text, name, where=option(name))
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        section, _, key = name.partition(".")
        sections[section][key] = value
    return Config(
        **{section: _section(SECTIONS[section], given) for section, given in sections.items()},
        handlers=None if handlers is None else MappingProxyType(handlers),
        source=path,
        warnings=warnings,
    )


def _is_folder_removed() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - no path is wanted
    except FileNotFoundError:
        return True
    return False


def _section(section: type[Any], values: Mapping[str, Any]) -> Any:  # noqa: ANN401  # a section
    names = {setting_name(each): each.name for each in fields(section)}
    return section(**{names[name]: value for name, value in values.items()})


def option(path: str) -> str:
    """The option of the command line for a setting."""
    section, _, name = path.partition(".")
    return f"--{'log-' if section == 'logging' else ''}{name.replace('_', '-')}"


# The file. --------------------------------------------------------------------------------------


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, HandlerSettings] | None]:
    """The file's settings by path, and its handlers by job type if it has the table."""
    file = str(path) if str(path).isprintable() else repr(str(path))
    values: dict[str, Any] = {}
    handlers = None
    for section, table in _parse_file(path, file).items():
        if section not in SECTIONS and section != _HANDLERS:
            known = [*SECTIONS, _HANDLERS]
            near = _hint(section, {**_PATHS_BY_NAME, **{name: name for name in known}})
            raise ConfigError(
                f"{file}: {_shown_name(section)} is not a section"
                f"{near or ', known: ' + ', '.join(known)}"
            )
        if not isinstance(table, dict):
            # An array of tables is not shown: a secret may be in it.
            found = "an array" if isinstance(table, list) else shown(table)
            raise ConfigError(f"{file}: {section} must be a table [{section}], got {found}")
        if section == _HANDLERS:
            handlers = _read_handlers(table, file)
            continue
        for name, value in table.items():
            setting = SETTINGS.get(key := f"{section}.{name}")
            if setting is None:
                raise ConfigError(
                    f"{file}: {section}.{_shown_name(name)} is not a setting"
                    f"{_hint(key, _PATHS_BY_NAME)}"
                )
            values[key] = setting.convert(*_readings(value), where=f"{file}: {key}")
    return values, handlers


def _parse_file(path: Path, file: str) -> dict[str, Any]:
    try:
        data = read_within(path, max_bytes=_MAX_FILE_BYTES)
        return tomllib.loads(data.decode("utf-8-sig"))  # Windows' editors begin with a BOM
    except OSError as error:
        raise ConfigError(f"{file}: must be a readable file, got: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ConfigError(f"{file}: must be UTF-8, got byte 0x{byte:02x} in line {line}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: must be TOML, got: {cut(str(error))}") from error
    except ValueError as error:  # from int(), which tomllib passes on
        raise ConfigError(f"{file}: must be TOML, got: an integer of too many digits") from error
    except RecursionError as error:
        raise ConfigError(f"{file}: must be TOML, got: arrays or tables nested too deep") from error


def _read_handlers(table: Mapping[str, object], file: str) -> dict[str, HandlerSettings]:
    # An empty table would be a server that refuses every job.
    if not table:
        raise ConfigError(f"{file}: [handlers] must name at least one handler, got none")
    if "" in table:
        raise ConfigError(f"{file}: [handlers] takes non-empty job types, got ''")
    return {
        job_type: _read_handler(value, where=f"{file}: handlers.{_shown_name(job_type)}")
        for job_type, value in table.items()
    }


def _read_handler(value: object, *, where: str) -> HandlerSettings:
    """Read a function's name, or a table like ``[handlers.email]``."""
    is_table = isinstance(value, dict)
    table: dict[str, object] = {**value} if isinstance(value, dict) else {"call": value}
    settings = _check_names(
        table, HandlerSettings, where=where, more=" (a type with a dot in it is written in quotes)"
    )
    if "call" not in table:
        raise ConfigError(f"{where} must have a function's name as its key call, got none")
    if isinstance(call := table["call"], str):
        # As Python does with each name in a program: é may be one character, or e and an accent.
        table["call"] = unicodedata.normalize("NFKC", call)
    if isinstance(retry := table.get("retry"), dict):
        table["retry"] = _read_retry(retry, where=f"{where}.retry")
    return HandlerSettings(
        **{
            name: settings[name].convert(
                *_readings(each), where=f"{where}.{name}" if is_table else where
            )
            for name, each in table.items()
        }
    )


def _read_retry(table: Mapping[str, object], *, where: str) -> RetrySettings:
    settings = _check_names(table, RetrySettings, where=where)
    return RetrySettings(
        **{
            name: settings[name].convert(*_readings(each), where=f"{where}.{name}")
            for name, each in table.items()
        }
    )


def _check_names(
    table: Mapping[str, object], section: type[Any], *, where: str, more: str = ""
) -> Mapping[str, Setting]:
    """The settings of a section; refuses a table with another name in it."""
    settings = settings_of(section)
    for name in table:
        if name not in settings:
            raise ConfigError(
                f"{where}.{_shown_name(name)} is not a setting"
                f"{_hint(name, {known: known for known in settings})}"
                f", known: {', '.join(settings)}{more}"
            )
    return settings


def _readings(value: object) -> Iterator[object]:
    """What a value in the file may mean: INFO also info, a single string also an array of one."""
    yield value
    if isinstance(value, str):
        yield value.lower()
        yield [value]


# The environment and the command line. ----------------------------------------------------------


def _read_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values by path, and a warning for each unknown name that has no section.

    A variable that is set but empty is a value like any other, so it is refused.
    """
    paths = {_variable(path): path for path in SETTINGS}
    values: dict[str, Any] = {}
    warnings: list[str] = []
    for variable in sorted(environment):  # sorted: the first mistake is the same every time
        name = variable.removeprefix(_PREFIX)
        if name in (variable, _OF_CLIENTS) or _SERVICE_LINK.fullmatch(
            f"{name}={environment[variable]}"
        ):
            continue
        if variable in paths:
            path = paths[variable]
            values[path] = _parse(environment[variable], path, where=variable)
            continue
        unknown = f"{_shown_name(variable)} is not a setting"
        near = _hint(name, {each: _variable(path) for each, path in _PATHS_BY_NAME.items()})
        if name.startswith("HANDLERS_"):
            raise ConfigError(
                f"{unknown}, handlers are set in the [handlers] table of the configuration file"
            )
        if name.startswith(tuple(f"{section.upper()}_" for section in SECTIONS)):
            raise ConfigError(f"{unknown}{near}")
        if name == "CONFIG":
            near = ", the option --config names the file"
        warnings.append(f"{unknown} and has no effect{near}")
    return values, tuple(warnings)


def _variable(path: str) -> str:
    return _PREFIX + path.replace(".", "_").upper()


def _parse(text: str, path: str, *, where: str) -> Any:  # noqa: ANN401  # of the setting's type
    """Convert a value that came as text: its first reading that the setting takes."""
    readings: list[object] = [text.lower()]
    if _NUMBER.fullmatch(text):
        readings.append(float(text) if "." in text else int(text))
    if text.lower() in _BOOLEANS:
        readings.append(_BOOLEANS[text.lower()])
    readings.append([item.strip() for item in text.split(",")])
    return SETTINGS[path].convert(text, *readings, where=where)


# Refusals, and the settings in force. -----------------------------------------------------------


def _hint(name: str, known: Mapping[str, str]) -> str:
    """The end of a refusal: the known name that this one resembles, with its section or without.

    Args:
        name: What the user wrote.
        known: The names to show, by the names to compare with.
    """
    alike = {each.replace(".", "_"): shown_as for each, shown_as in known.items()}
    whole = name[:80].replace(".", "_").lower()
    for part in (whole, whole.partition("_")[2]):
        if near := get_close_matches(part, alike, n=1, cutoff=_ALIKE):
            return f", the nearest is {alike[near[0]]}"
    return ""


def _shown_name(name: str) -> str:
    """A name as the user wrote it, in quotes if it is unusual."""
    return cut(name) if re.fullmatch(r"[A-Za-z0-9_-]+", name) else shown(name)


def describe(config: Config) -> str:
    """The settings in force, as TOML that `load_config` reads back. Secrets are left out."""
    return "\n".join(_lines(config)) + "\n"


def _lines(config: Config) -> Iterator[str]:
    yield f"# from {shown(str(config.source))}" if config.source else "# without a file"
    for section in SECTIONS:
        if lines := [*_assignments(getattr(config, section))]:
            yield f"\n[{section}]"
            yield from lines
    if config.handlers is not None:
        yield "\n[handlers]"
        for job_type, handler in config.handlers.items():
            is_table = handler != HandlerSettings(call=handler.call)
            yield f"{_toml(job_type)} = {_toml(handler if is_table else handler.call)}"


def _assignments(settings: Any) -> Iterator[str]:  # noqa: ANN401  # a section
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.repr and value is not None:
            yield f"{setting_name(field)} = {_toml(value)}"


def _toml(value: Any) -> str:  # noqa: ANN401  # of any setting's type
    if is_dataclass(value):
        return f"{{ {', '.join(_assignments(value))} }}"
    # JSON and TOML write these values alike, except that TOML must escape DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
