"""The configuration: read once at start-up, checked completely, frozen from then on.

Command line over environment over file over default. A wrong value or an unknown name in any of
them is refused, also where another one would have overridden it.
"""

from trio_jobs.config.describe import describe
from trio_jobs.config.load import load_config
from trio_jobs.config.messages import ConfigError
from trio_jobs.settings import (
    Config,
    HandlerSettings,
    HttpSettings,
    LoggingSettings,
    PoolSettings,
    StoreSettings,
)

__all__ = [
    "Config",
    "ConfigError",
    "HandlerSettings",
    "HttpSettings",
    "LoggingSettings",
    "PoolSettings",
    "StoreSettings",
    "describe",
    "load_config",
]
