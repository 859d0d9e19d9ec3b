"""Commits a statement for each line that it reads: ``python -m bench.committer URL SQL [rest]``.

With ``rest``, others have waited for the commit: it rests once more before it says anything, and
leaves them the processors.
"""

import sys
import time

import psycopg

# Seconds without anything to do, for all who take part.
REST = 0.002

_, url, statement, *then = sys.argv
with psycopg.connect(url, autocommit=True) as connection:
    for _ in sys.stdin:
        time.sleep(REST)
        began = time.perf_counter()
        rows = connection.execute(statement.encode())
        committed = time.perf_counter()
        if then == ["rest"]:
            time.sleep(REST)
        print(began, committed, *[value for (value,) in rows], flush=True)
