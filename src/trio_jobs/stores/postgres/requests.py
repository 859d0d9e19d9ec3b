"""What clients ask of single jobs, as statements that may be repeated after a lost connection.

Each has one row, with one value: whether there is such a job, in a state that allows the change.
"""

from typing import Final

CANCEL: Final = "select trio_jobs.request_cancel(%(id)s::uuid)"

MAKE_DUE: Final = "select trio_jobs.make_due(%(id)s::uuid)"

DELETE: Final = """
    with gone as (
        delete from trio_jobs.jobs where id = %(id)s::uuid and completed_at is not null returning id
    )
    select exists (select from gone)
"""
