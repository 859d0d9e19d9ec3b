"""Commits a statement for each line that it reads: ``python -m bench.committer URL SQL``."""

import sys
import time

import psycopg

# Seconds without anything to do, for all who take part.
REST = 0.002

with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    for _ in sys.stdin:
        time.sleep(REST)
        began = time.perf_counter()
        rows = connection.execute(sys.argv[2].encode())
        committed = time.perf_counter()
        print(began, committed, *[value for (value,) in rows], flush=True)
