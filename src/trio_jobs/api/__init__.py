"""The HTTP API: HTTP in, admission, JSON out. See `create_app`."""

from trio_jobs.api.app import create_app
from trio_jobs.api.parts import PoolStatus

__all__ = ["PoolStatus", "create_app"]
