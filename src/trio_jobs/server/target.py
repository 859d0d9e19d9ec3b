"""The target of a request: its path and query, from each of the forms that HTTP knows."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from trio_jobs.server.problems import RefusedError

_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^?#]*)?(?:\?([^#]*))?", re.IGNORECASE)


@dataclass(slots=True)
class Target:
    """What a request asks for. ``host`` is set if the target itself names it."""

    path: str
    raw_path: bytes
    query: bytes
    host: bytes | None = None


def parse_target(method: str, target: bytes) -> Target:
    """Understand the target; ``OPTIONS *`` has the path ``*``.

    Raises:
        RefusedError: It is of no form that the method allows.
    """
    if method == "CONNECT":
        raise RefusedError(501, "this server is no proxy")
    host: bytes | None = None
    if target.startswith(b"/"):
        raw_path, _, query = target.partition(b"?")
    elif target == b"*" and method == "OPTIONS":
        raw_path, query = target, b""
    elif found := _ABSOLUTE.fullmatch(target):
        host, raw_path, query = found[1], found[2] or b"/", found[3] or b""
    else:
        raise RefusedError(
            400, "the request target must be a path that begins with /", malformed=True
        )
    path = raw_path.decode("ascii")
    if "%" in path:
        path = unquote(path)
    return Target(path, raw_path, query, host)
