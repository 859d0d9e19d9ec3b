"""The store in a database that several servers share."""

import psycopg
from psycopg.conninfo import conninfo_to_dict

from trio_jobs.settings import ConfigError, StoreSettings


def check_urls(settings: StoreSettings) -> None:
    """Check that the URLs of the database can be read; nothing is connected.

    Raises:
        ConfigError: One cannot. The text shows nothing of it: a password may be in it.
    """
    for name, url in (("url", settings.url), ("listen_url", settings.listen_url)):
        if url is None:
            continue
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            text = "must be a URL that libpq takes, got a value that is not shown here"
            raise ConfigError(f"store.{name} {text}") from None
