"""`current_job_id`: the job that the running code works for, for the lines that it logs.

Set while a handler runs; tasks and threads that the handler starts inherit it.
"""

from contextvars import ContextVar

current_job_id: ContextVar[str | None] = ContextVar("current_job_id", default=None)
