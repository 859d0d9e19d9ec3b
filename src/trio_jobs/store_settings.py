"""`check_store_settings`: which settings of a store fit together."""

from collections.abc import Iterable, Iterator
from typing import Final

from trio_jobs.setting_type import ConfigError
from trio_jobs.settings import HttpSettings, PoolSettings, StoreSettings

# A payload or a result. SQLite takes no value of 1,000,000,000 bytes or more.
MAX_IN_FILE: Final = 900_000_000
# One statement takes a payload in, and PostgreSQL checks its JSON: 60 MB took 24 s, in which no
# other job is written.
MAX_IN_DATABASE: Final = 50_000_000

# What of the store's settings has an effect in a file alone, and in a database alone.
_OF_FILES: Final = ("path", "sync", "keep_completed", "keep_failed", "keep_completed_bytes")
_OF_DATABASES: Final = ("listen_url", "lease", "max_open")


def check_store_settings(pool: PoolSettings, store: StoreSettings, http: HttpSettings) -> None:
    """Check that the settings of the store fit together.

    Raises:
        ConfigError: They do not.
    """
    if store.url is not None and store.url_file is not None:
        raise ConfigError("store.url and store.url_file must not be set together")
    if store.url is not None or store.url_file is not None:
        _check_database(pool, store)
        where, most = "store.url", MAX_IN_DATABASE
    else:
        for name in _changed(store, _OF_DATABASES):
            raise ConfigError(f"store.{name} needs store.url")
        if store.path is None:
            # In memory, the end of the process would lose the jobs that the stop leaves.
            if pool.drain == "running":
                raise ConfigError("pool.drain = 'running' needs store.path or store.url")
            if store.keep_for is not None:
                raise ConfigError("store.keep_for needs store.path or store.url")
            return
        if pool.leftovers is not None:
            raise ConfigError("pool.leftovers has no use with store.path: the file keeps the jobs")
        where, most = "store.path", MAX_IN_FILE
    for name, value in (
        ("http.max_body_bytes", http.max_body_bytes),
        ("store.max_result_bytes", store.max_result_bytes),
    ):
        if value > most:
            raise ConfigError(f"{name} must be at most {most} with {where}, got {value}")


def _check_database(pool: PoolSettings, store: StoreSettings) -> None:
    for name in _changed(store, _OF_FILES):
        raise ConfigError(f"store.{name} has no use with store.url")
    if pool.leftovers is not None:
        raise ConfigError("pool.leftovers has no use with store.url: the database keeps the jobs")
    if pool.drain == "all":
        raise ConfigError("pool.drain must be 'running' with store.url: other servers do the rest")


def _changed(store: StoreSettings, names: Iterable[str]) -> Iterator[str]:
    """Those of these settings that do not have their defaults."""
    defaults = StoreSettings()
    return (name for name in names if getattr(store, name) != getattr(defaults, name))
