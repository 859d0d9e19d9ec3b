"""`python -m trio_jobs`: the same as the command `trio-jobs`."""

import sys

# What a handler starts with multiprocessing may import this module again, by another name.
if __name__ == "__main__":
    from trio_jobs.import_path import place_folder

    # Before anything else is imported: `-m` has put the current folder first.
    if not sys.flags.safe_path:
        place_folder(sys.path[0])

    from trio_jobs.cli import run

    sys.exit(run())
