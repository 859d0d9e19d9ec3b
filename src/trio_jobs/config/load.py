"""Putting the configuration together: command line over environment over file over default."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from trio_jobs.config.environment import read_environment
from trio_jobs.config.file import read_file
from trio_jobs.config.keys import KEYS, KEYS_BY_PATH, PATHS_BY_NAME
from trio_jobs.config.messages import ConfigError, hint, shown
from trio_jobs.settings import SECTIONS, Config

DEFAULT_FILE: Final = Path("config.toml")


def load_config(
    path: Path | None,
    *,
    environment: Mapping[str, str],
    overrides: Mapping[str, object],
) -> Config:
    """Read, check and merge everything there is. Touches nothing but the one file.

    Args:
        path: The file, which must then be there. None takes ``config.toml`` in the current
            folder if there is one.
        environment: Usually ``os.environ``.
        overrides: From the command line, by path: ``{"pool.workers": "4"}``. A string is read as
            in the environment, anything else as in the file; None stands for "not given".

    Raises:
        ConfigError: Anything is wrong or unknown, be it overridden or not.
    """
    # lexists, not exists: a link that leads nowhere is a mistake to report, not an absent file.
    if path is None and os.path.lexists(DEFAULT_FILE):
        path = DEFAULT_FILE
    in_file, handlers = read_file(path) if path is not None else ({}, None)
    in_environment, warnings = read_environment(environment)
    values = in_file | in_environment | _read_overrides(overrides)
    sections = {
        section: settings(
            **{name: values[key.path] for name, key in KEYS[section].items() if key.path in values}
        )
        for section, settings in SECTIONS.items()
    }
    return Config(
        **sections,
        handlers=None if handlers is None else MappingProxyType(handlers),
        source=path,
        warnings=warnings,
    )


def _read_overrides(overrides: Mapping[str, object]) -> dict[str, object]:
    values: dict[str, object] = {}
    for path, value in overrides.items():
        key = KEYS_BY_PATH.get(path)
        if key is None:
            raise ConfigError(f"{shown(path)} is not a setting{hint(path, PATHS_BY_NAME)}")
        if isinstance(value, str):
            values[path] = key.parse(value, where=key.option)
        elif value is not None:
            values[path] = key.convert(value, where=key.option)
    return values
