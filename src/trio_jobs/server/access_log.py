"""One line for each answered request, on the logger ``trio_jobs.access``."""

import logging

log = logging.getLogger("trio_jobs.access")


def log_request(
    *, method: str, path: str, status: int | None, size: int, duration: float, client: str
) -> None:
    """Log one request. ``status`` is None if nothing was answered: the client had left."""
    log.info(
        "request",
        extra={
            "method": method,
            "path": path,
            "status": status,
            "bytes": size,
            "duration": round(duration, 6),
            "client": client,
        },
    )
