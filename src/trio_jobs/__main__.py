"""`python -m trio_jobs`: the same as the command `trio-jobs`."""

import sys

from trio_jobs.cli import run

# Child processes of process handlers import this module again, by another name.
if __name__ == "__main__":
    sys.exit(run())
