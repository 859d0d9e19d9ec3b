"""`trio-jobs migrate`: brings the tables of the database to this version."""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trio_jobs.commands.command_error import CommandError
from trio_jobs.commands.exit_statuses import BROKEN, MISTAKEN, OK
from trio_jobs.commands.output import write_line


def add(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration (default: config.toml in the current folder, if there)",
    )


def run(options: Namespace) -> int:
    """Make the tables, or renew those of an older version; others may use them meanwhile."""
    # Imported here: the parser of all commands needs none of it.
    from trio_jobs.config import load_config
    from trio_jobs.pool.store import StoreDatabaseError
    from trio_jobs.preparation import prepare_store
    from trio_jobs.setting_type import ConfigError

    try:
        config = load_config(options.config, environment=os.environ, overrides={})
        url = prepare_store(config).store.url
        if url is None:
            raise ConfigError("trio-jobs migrate needs store.url")  # noqa: TRY301
        from trio_jobs.store_in_database import migrate

        version = migrate(url)
    except ConfigError as error:
        raise CommandError(str(error), MISTAKEN) from None
    except StoreDatabaseError as error:
        raise CommandError(str(error), BROKEN) from None
    write_line(f"the tables have version {version}")
    return OK
