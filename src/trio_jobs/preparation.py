"""What the settings refer to beside the handlers: files, extras, where the jobs are.

Files are read, and modules imported, before the handlers are: handler modules may change the
current folder, and where modules are found.
"""

import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trio_jobs.bounded_read import read_within
from trio_jobs.handler_loading import in_file
from trio_jobs.server.tls import load_certificate
from trio_jobs.setting_type import ConfigError
from trio_jobs.settings import SETTINGS, Config, StoreSettings
from trio_jobs.store_settings import check_store_settings
from trio_jobs.tokens import TokenTable

if TYPE_CHECKING:  # needs the extra
    from trio_jobs.tracing import Tracing

# Bytes of a file with a URL.
_MAX_URL = 65_536


def read_secrets(config: Config) -> tuple[ssl.SSLContext | None, TokenTable | None]:
    """The certificate with its key, and the tokens.

    Raises:
        ConfigError: A file or a token is wrong, or settings contradict each other.
    """
    http = config.http
    if (http.certfile is None) != (http.keyfile is None):
        raise ConfigError("http.certfile and http.keyfile must be set together")
    if http.token is not None and http.token_file is not None:
        raise ConfigError("http.token and http.token_file must not be set together")
    try:
        tls = None
        if http.certfile is not None and http.keyfile is not None:
            tls = load_certificate(http.certfile, http.keyfile)
        tokens = None if http.token is None else TokenTable.of_one(http.token)
        if http.token_file is not None:
            tokens = TokenTable.of_file(http.token_file)
    except ValueError as error:
        raise ConfigError(f"http: {error}") from error
    return tls, tokens


def fix_paths(config: Config) -> Config:
    """Make the paths absolute that a reload uses again: handlers may change the current folder.

    Raises:
        ConfigError: The log file starts at the current folder, which was removed.
    """
    names = ("certfile", "keyfile", "token_file")  # read already: the current folder is there
    paths: dict[str, Any] = {
        name: str(Path(path).absolute()) for name in names if (path := getattr(config.http, name))
    }
    try:
        log_file = None if (path := config.logging.file) is None else str(Path(path).absolute())
    except FileNotFoundError as error:
        text = f"logging.file: {path!r} starts at the current folder, which was removed"
        raise ConfigError(text) from error
    logging_ = replace(config.logging, file=log_file)
    return replace(config, http=replace(config.http, **paths), logging=logging_)


def prepare_metrics(config: Config) -> Config:
    """Decide whether there are metrics, and import what writes them.

    Raises:
        ConfigError: Metrics are wanted, and their extra is not installed, or cannot be imported.
    """
    metrics = config.metrics
    if metrics.enabled is False:
        return config
    try:
        import trio_jobs.metrics.exporter  # noqa: F401
    except ImportError as error:
        # A missing package is no fault, unless it is asked for; a broken one is.
        missing = isinstance(error, ModuleNotFoundError)
        ours = f"{error.name}".partition(".")[0] == "prometheus_client"
        if metrics.enabled or not (missing and ours):
            text = f"metrics.enabled: the extra `metrics` cannot be imported: {error}"
            raise ConfigError(in_file(config, text)) from error
        return replace(config, metrics=replace(metrics, enabled=False))
    return replace(config, metrics=replace(metrics, enabled=True))


def prepare_tracing(config: Config) -> "Tracing | None":
    """What makes spans, if it is wanted.

    Raises:
        ConfigError: It is wanted, and its extra is not installed.
    """
    if not config.tracing.enabled:
        return None
    try:
        from trio_jobs.tracing import Tracing
    except ImportError as error:
        text = f"tracing.enabled: the extra `otel` cannot be imported: {error}"
        raise ConfigError(in_file(config, text)) from error
    return Tracing(config.tracing.parent)


def prepare_store(config: Config) -> Config:
    """Check the settings of the store, and import what a store in a file or a database needs.

    A store in memory needs none of these modules.

    Returns:
        The configuration with the absolute path of the file, or with the URL of the database.
        Relative paths start at the folder of the configuration.

    Raises:
        ConfigError: Settings contradict each other, the database has no URL that can be read, or
            its extra is not installed.
    """
    store = config.store
    folder = Path.cwd() if config.source is None else config.source.parent
    try:
        check_store_settings(config.pool, store, config.http)
        if store.path is not None:
            import trio_jobs.store_in_file  # noqa: F401

            store = replace(store, path=str((folder / store.path).absolute()))
        if store.url_file is not None:
            store = replace(store, url=_read_url(folder / store.url_file), url_file=None)
        if store.url is not None:
            _check_urls(store)
    except ConfigError as error:
        raise ConfigError(f"{config.source or 'the settings'}: {error}") from error
    return replace(config, store=store)


def _check_urls(store: StoreSettings) -> None:
    try:
        from trio_jobs.store_in_database import check_urls
    except ImportError as error:
        text = f"store.url: the extra `postgres` cannot be imported: {error}"
        raise ConfigError(text) from error
    check_urls(store)


def _read_url(path: Path) -> str:
    try:
        text = read_within(path, max_bytes=_MAX_URL).decode("utf-8-sig").strip()
    except OSError as error:
        text = f"cannot read the file {str(path)!r}: {error.strerror}"
        raise ConfigError(f"store.url_file: {text}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"store.url_file: the file {str(path)!r} must be UTF-8") from error
    url: str = SETTINGS["store.url"].convert(text, where=f"store.url_file: {str(path)!r}")
    return url
