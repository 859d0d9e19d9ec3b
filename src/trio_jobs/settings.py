"""Every setting: its type, range and default, each in exactly one place.

To add a key, add one field. Its section and name make the key of the file and the name of the
environment variable; its annotation makes the check and the text of a refusal, in which
``Meta(description=...)`` says what a value is, in words that fit after "must be". The default
None makes a key optional. ``field(repr=False)`` makes it a secret, which is shown nowhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

# Bounded, because what waits on them is not: a timer thread raises OverflowError above some
# 292 years, and infinity would be a server that cannot be stopped. NaN is in no range.
Seconds = Annotated[float, Meta(ge=0, le=604_800, description="a number of seconds")]
# Zero would close each connection before its first request.
PositiveSeconds = Annotated[float, Meta(ge=0.1, le=604_800, description="a number of seconds")]
# Any shorter one would be a way to run nothing.
Timeout = Annotated[float, Meta(ge=0.001, le=604_800, description="a number of seconds")]
# No control characters and no lone surrogates (what an environment variable that is not UTF-8
# turns into): such a value could be written into no log line and no TOML file.
Text = Annotated[
    str,
    Meta(
        pattern=r"\A[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+\Z",
        description="a non-empty string without control characters",
    ),
]
# Checked wherever an address is read, be it overridden or not. Whether there is such an address is
# for the front door to say.
_PORT: Final = r"0*(\d{1,4}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"
_HOST: Final = r"(\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]|\w[A-Za-z0-9._-]*)"
_LONGEST_UNIX_PATH: Final = 107  # in bytes; the kernel's limit
_UNIX: Final = r"unix:/[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+"
Address = Annotated[str, Meta(pattern=rf"\A(?a:{_HOST}:{_PORT}|{_UNIX})\Z")]
_ADDRESSES: Final = "'host:port', '[ipv6]:port', 'unix:/path' or a non-empty array of these"
# A client connects by writing: a mode that lets somebody only read the socket lets nobody in.
SocketMode = Annotated[
    str,
    Meta(
        pattern=r"\A0?[67][067][067]\Z",
        description="an octal mode in quotes like '0660', of 6 (may connect) and 0 (may not)",
    ),
]
_NAME: Final = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
FunctionName = Annotated[
    str,
    Meta(
        pattern=rf"\A{_NAME}:{_NAME}\Z",
        description="a function's name like 'package.module:function'",
    ),
]


def check_addresses(addresses: tuple[str, ...]) -> None:
    """Check what no pattern can say.

    Raises:
        ValueError: An IPv6 address is none, or a path is too long for a socket.
    """
    for address in addresses:
        if address.startswith("["):
            IPv6Address(address[1:].rpartition("]")[0])
        elif len(address.removeprefix("unix:").encode()) > _LONGEST_UNIX_PATH:
            raise ValueError(address)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """The workers and the channel that feeds them."""

    workers: Annotated[int, Meta(ge=1, le=100_000)] = 10
    buffer_size: Annotated[int, Meta(ge=1, le=10_000_000)] = 100
    grace_period: Seconds = 25.0
    processes: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    leftovers: Text | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The front door: addresses and limits."""

    bind: Annotated[tuple[Address, ...], Meta(min_length=1, description=_ADDRESSES)] = field(
        default=("127.0.0.1:8080",), metadata={"check": check_addresses}
    )
    unix_mode: SocketMode = "0600"
    certfile: Text | None = None
    keyfile: Text | None = None
    allowed_hosts: tuple[Text, ...] = ()
    token_file: Text | None = None
    token: Text | None = field(default=None, repr=False)
    access_log: bool = False
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    max_requests_per_connection: Annotated[int, Meta(ge=1, le=2**31)] = 100_000
    max_header_bytes: Annotated[int, Meta(ge=1_024, le=2**20)] = 16_384
    max_body_bytes: Annotated[int, Meta(ge=1, le=2**30)] = 1_048_576
    header_timeout: PositiveSeconds = 10.0
    body_timeout: PositiveSeconds = 30.0
    send_timeout: PositiveSeconds = 5.0
    keep_alive_timeout: PositiveSeconds = 10.0
    stream_idle_timeout: PositiveSeconds = 30.0
    max_wait_seconds: Seconds = 60.0
    max_waiters: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000
    graceful_timeout: Seconds = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """How many finished jobs are remembered; 0 remembers none."""

    keep_completed: Annotated[int, Meta(ge=0, le=10_000_000)] = 10_000
    keep_completed_bytes: Annotated[int, Meta(ge=0, le=2**40)] = 268_435_456
    max_result_bytes: Annotated[int, Meta(ge=1, le=2**30)] = 1_048_576


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingSettings:
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    slow_step: Seconds = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSettings:
    """The function that processes the jobs of one type, not yet imported, and how it is run."""

    call: FunctionName
    run: Literal["async", "thread", "process"] | None = None
    timeout: Timeout | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. Two are equal when their settings are, wherever they came from.

    Attributes:
        handlers: By job type; None without a ``[handlers]`` table, never empty.
        source: The file that was read, as it was named; None if there was none.
        warnings: One line each, for the caller to log once logging is set up.
    """

    pool: PoolSettings = field(default_factory=PoolSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    handlers: Mapping[str, HandlerSettings] | None = None
    source: Path | None = field(default=None, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)


# The sections whose keys have fixed names. [handlers] is not among them: its keys are job types.
SECTIONS: Final[Mapping[str, type[Any]]] = {
    "pool": PoolSettings,
    "http": HttpSettings,
    "store": StoreSettings,
    "logging": LoggingSettings,
}
