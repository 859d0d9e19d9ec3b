"""`python -m trio_jobs`: the same as the command `trio-jobs`."""

import sys

# What a handler starts with multiprocessing may import this module again, by another name.
if __name__ == "__main__":
    from trio_jobs.import_path import take_first_folder

    # Before anything else is imported: `-m` has put the current folder first.
    folder = None if sys.flags.safe_path else take_first_folder()

    from trio_jobs.cli import run

    sys.exit(run(folder=folder))
