"""The configuration in force, as a file that would give it."""

import json
from collections.abc import Iterator
from dataclasses import fields

from trio_jobs.config.messages import shown
from trio_jobs.settings import SECTIONS, Config, HandlerSettings


def describe(config: Config) -> str:
    """The effective settings as TOML that `load_config` reads back. Secrets are left out."""
    return "\n".join(_lines(config)) + "\n"


def _lines(config: Config) -> Iterator[str]:
    yield f"# from {shown(str(config.source))}" if config.source else "# without a file"
    for section in SECTIONS:
        settings = getattr(config, section)
        yield f"\n[{section}]"
        for field in fields(settings):
            value = getattr(settings, field.name)
            if field.repr and value is not None:
                yield f"{field.name} = {_toml(value)}"
    if config.handlers is not None:
        yield "\n[handlers]"
        for job_type, handler in config.handlers.items():
            yield f"{_toml(job_type)} = {_handler(handler)}"


def _handler(handler: HandlerSettings) -> str:
    values = ((field.name, getattr(handler, field.name)) for field in fields(handler))
    settings = [f"{name} = {_toml(value)}" for name, value in values if value is not None]
    return _toml(handler.call) if len(settings) == 1 else f"{{ {', '.join(settings)} }}"


def _toml(value: object) -> str:
    # What a setting can be is written alike in JSON and TOML, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
