"""Every setting, written once: name, type, range, default and description.

A setting is one field. The file calls it ``section.name``, the environment
``TRIO_JOBS_SECTION_NAME``. Its type carries a `Meta` with the range and with the words that follow
"must be" in a refusal, then the description. The default None makes a setting optional.
``field(repr=False)`` makes it a secret: no text shows its value.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from trio_jobs.hidden_values import PATH
from trio_jobs.setting_type import ADDRESSES, Setting, settings_of, values_of

_WEEK: Final = 604_800  # seconds
MAX_WORKERS: Final = 100_000


def _integer(low: int, high: int) -> Meta:
    return Meta(ge=low, le=high, description=f"an integer from {low} to {high}")


def _seconds(low: float) -> Meta:
    # A timer thread raises OverflowError above some 292 years, and a server with
    # an infinite grace period cannot be stopped. NaN is in no range.
    return Meta(ge=low, le=_WEEK, description=f"a number of seconds from {low:g} to {_WEEK}")


Seconds = Annotated[float, _seconds(0)]
# Zero would close each connection before its first request.
PositiveSeconds = Annotated[float, _seconds(0.1)]
# A shorter limit would end each job before it has done anything.
Timeout = Annotated[float, _seconds(0.001)]
Switch = Annotated[bool, Meta(description="true or false")]
# No control character and no lone surrogate (from an environment variable that is not UTF-8):
# neither can be written into a log line or a TOML file.
Text = Annotated[
    str,
    Meta(
        pattern=r"\A[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+\Z",
        description="a non-empty string without control characters",
    ),
]
Texts = Annotated[tuple[Text, ...], Meta(description="a string or an array of strings")]
DatabaseUrl = Annotated[
    str,
    Meta(
        pattern=r"\Apostgres(ql)?://[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*\Z",
        description="a URL that begins with postgresql://",
    ),
]
Addresses = Annotated[tuple[str, ...], Meta(min_length=1, description=ADDRESSES)]
# To connect, a client needs permission to write: permission to read alone would admit no client.
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

ExceptionName = Annotated[str, Meta(pattern=rf"\A{_NAME}\Z")]
_EXCEPTIONS: Final = "of exceptions' names like 'OSError' or 'package.module.Class'"
ExceptionNames = Annotated[tuple[ExceptionName, ...], Meta(description=f"an array {_EXCEPTIONS}")]
SomeExceptionNames = Annotated[
    tuple[ExceptionName, ...],
    Meta(min_length=1, description=f"a non-empty array {_EXCEPTIONS}"),
]
Payloads = Literal["read", "control"]
_Path = Annotated[str, Meta(pattern=PATH)]
Paths = Annotated[
    tuple[_Path, ...],
    Meta(description="a path of names like 'card.number', or an array of these"),
]
Backoff = Annotated[
    Literal["exponential", "constant"]
    | Annotated[tuple[Seconds, ...], Meta(min_length=1, max_length=1_000)],
    Meta(description=f"'exponential', 'constant' or a non-empty array of seconds up to {_WEEK}"),
]


# Ten years: an unlimited number of seconds is no time that a clock could name.
_TEN_YEARS: Final = 315_360_000
LongSeconds = Annotated[
    float, Meta(ge=1, le=_TEN_YEARS, description=f"a number of seconds from 1 to {_TEN_YEARS}")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """The workers and the channel that feeds them."""

    workers: Annotated[int, _integer(1, MAX_WORKERS), "how many jobs run at the same time"] = 10
    buffer_size: Annotated[
        int, _integer(1, 10_000_000), "how many accepted jobs may wait for a worker"
    ] = 100
    max_waiting: Annotated[
        int,
        _integer(0, 10_000_000),
        "how many new jobs may wait for a later time or for others of their type",
    ] = 10_000
    grace_period: Annotated[Seconds, "how long a stop waits for accepted jobs"] = 25.0
    processes: Annotated[
        Annotated[int, _integer(1, 1_000)] | None,
        "how many jobs run in child processes at the same time",
    ] = None
    async_handlers: Annotated[
        Literal["trio", "asyncio"], "where async functions run whose handlers do not say it"
    ] = "trio"
    asyncio_loop: Annotated[
        Literal["asyncio", "uvloop"], "the event loop of handlers on asyncio"
    ] = "asyncio"
    leftovers: Annotated[Text | None, "the file for jobs that a stop leaves unfinished"] = None
    drain: Annotated[
        Literal["all", "running"] | None,
        "what a stop finishes; with a store file or database running is the default, otherwise all",
    ] = None

    @property
    def retry_after(self) -> int:
        """The ``Retry-After``, in whole seconds, of submissions that come during a stop."""
        return max(1, math.ceil(self.grace_period))


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """The HTTP server: addresses, access and limits."""

    bind: Annotated[Addresses, "where the server listens"] = ("127.0.0.1:8080",)
    unix_mode: Annotated[SocketMode, "who may connect to a Unix socket"] = "0600"
    certfile: Annotated[Text | None, "the certificate chain for HTTPS, in PEM"] = None
    keyfile: Annotated[Text | None, "the certificate's key, in PEM"] = None
    allowed_hosts: Annotated[Texts, "further names of a loopback server in Host; * for any"] = ()
    token_file: Annotated[
        Text | None, "the file with the tokens of which requests must carry one"
    ] = None
    token: Annotated[Text | None, "one token for everything"] = field(default=None, repr=False)
    payloads: Annotated[
        Payloads,
        "whether a token of the role read shows payloads, results, messages and log lines",
    ] = "read"
    access_log: Annotated[Switch, "whether each request is logged"] = False
    max_connections: Annotated[int, _integer(1, 1_000_000), "how many may be open"] = 10_000
    max_requests_per_connection: Annotated[
        int, _integer(1, 2**31), "after how many requests a connection is closed"
    ] = 100_000
    max_header_bytes: Annotated[
        int, _integer(1_024, 2**20), "the longest request line and headers together"
    ] = 16_384
    max_body_bytes: Annotated[int, _integer(1, 2**30), "the largest request body"] = 1_048_576
    header_timeout: Annotated[PositiveSeconds, "how long headers and a handshake may take"] = 10.0
    body_timeout: Annotated[PositiveSeconds, "how long a request's body may take"] = 30.0
    send_timeout: Annotated[PositiveSeconds, "how long a client may read nothing of an answer"] = (
        5.0
    )
    keep_alive_timeout: Annotated[
        PositiveSeconds, "how long a connection may be silent before a request"
    ] = 10.0
    stream_idle_timeout: Annotated[
        PositiveSeconds, "how long an upload stream may send nothing while the server reads"
    ] = 30.0
    pipe_pause_timeout: Annotated[
        PositiveSeconds, "how long the client of a pipe may read nothing of its answer"
    ] = 600.0
    max_wait_seconds: Annotated[Seconds, "the longest wait for a job that a client may ask for"] = (
        60.0
    )
    max_waiters: Annotated[
        int, _integer(0, 1_000_000), "how many clients may wait for jobs at the same time"
    ] = 10_000
    max_event_streams: Annotated[
        int, _integer(0, 100_000), "how many clients may have GET /events open; 0: there is none"
    ] = 100
    max_pipes: Annotated[
        int, _integer(1, 100_000), "how many clients may have POST /jobs/pipe open"
    ] = 100
    graceful_timeout: Annotated[
        Seconds, "how long a stop waits for answers once the last job has ended"
    ] = 2.0
    ui: Annotated[Switch, "whether there is the page /ui, and jobs are counted for it"] = True
    session_seconds: Annotated[
        int, _integer(1, _WEEK), "how long people stay signed in on the page"
    ] = 43_200
    secure_cookie: Annotated[
        Switch, "whether browsers send a session over TLS alone; for a proxy that ends TLS"
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Where jobs are kept, and how many completed ones; 0 keeps none."""

    path: Annotated[Text | None, "the file for all jobs; without it they are in memory"] = None
    url: Annotated[DatabaseUrl | None, "the PostgreSQL database that servers share"] = field(
        default=None, repr=False
    )
    url_file: Annotated[Text | None, "the file with the URL of the database"] = None
    listen_url: Annotated[
        DatabaseUrl | None, "the database without the pooler that store.url leads to"
    ] = field(default=None, repr=False)
    lease: Annotated[
        Annotated[float, Meta(ge=1, le=3_600, description="a number of seconds from 1 to 3600")],
        "after how long the others take over the jobs of a silent server",
    ] = 15.0
    max_open: Annotated[
        int, _integer(1, 10_000_000), "how many unfinished jobs all servers together may have"
    ] = 10_000
    sync: Annotated[
        Literal["full", "normal"],
        "what a job in the file survives: a power cut, or only the end of the process",
    ] = "full"
    timeout: Annotated[PositiveSeconds, "how long a request waits for the disk or database"] = 10.0
    keep_completed: Annotated[
        int, _integer(0, 10_000_000), "how many jobs that succeeded can be looked up"
    ] = 10_000
    keep_failed: Annotated[
        int, _integer(0, 10_000_000), "how many jobs with another outcome can be looked up"
    ] = 10_000
    keep_completed_bytes: Annotated[
        int, _integer(0, 2**40), "how many bytes of payloads and results all of them may hold"
    ] = 268_435_456
    keep_for: Annotated[
        LongSeconds | None, "how long a completed job stays in the file or database at most"
    ] = None
    max_result_bytes: Annotated[int, _integer(1, 2**30), "the largest result, as JSON"] = 1_048_576

    @property
    def spare(self) -> int:
        """How many jobs more than ``keep_completed`` a file may hold.

        It drops them together: to drop one for each that ends would nearly double what a commit
        costs, since SQLite writes whole pages.
        """
        return min(self.keep_completed // 50, 200)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingSettings:
    """Which lines are logged, and in which form."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], "the least severe lines to log"
    ] = "info"
    format: Annotated[Literal["text", "json"], "the form of a line"] = "text"
    file: Annotated[Text | None, "the file that takes the log in place of standard error"] = None
    slow_step: Annotated[
        Seconds, "how long a handler may block the event loop before a warning; 0: never"
    ] = 0.5
    keep_job_lines: Annotated[
        int, _integer(0, 1_000), "how many of its last lines a running job shows; 0: none"
    ] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSettings:
    """``GET /metrics``; the extra ``metrics`` writes it."""

    enabled: Annotated[
        Switch | None, "whether there is /metrics; by default, if its extra is installed"
    ] = None
    open: Annotated[Switch, "whether /metrics needs no token"] = False
    max_types: Annotated[
        int, _integer(1, 1_000), "how many job types have numbers of their own"
    ] = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TracingSettings:
    """OpenTelemetry's spans of submissions and attempts; the extra ``otel`` makes them."""

    enabled: Annotated[Switch, "whether there are spans, and each job keeps its trace"] = False
    parent: Annotated[
        Literal["child", "link"], "what its submission is for a job's first attempt"
    ] = "link"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """When a failed job gets another attempt; `RetryPolicy` acts on it."""

    attempts: Annotated[int, _integer(1, 1_000), "how often a job runs at most"] = 1
    backoff: Annotated[Backoff, "how the time until the next attempt grows"] = "exponential"
    base: Annotated[Seconds, "the time after the first attempt"] = 2.0
    factor: Annotated[
        Annotated[float, Meta(ge=1, le=1_000, description="a number from 1 to 1000")],
        "how many times longer each exponential time is than the one before",
    ] = 4.0
    cap: Annotated[Seconds, "the longest exponential time"] = 3_600.0
    jitter: Annotated[
        Switch, "whether each time is multiplied by a random number from 0.5 to 1"
    ] = True
    on: Annotated[SomeExceptionNames, "after which exceptions"] = ("Exception",)
    never: Annotated[ExceptionNames, "after which exceptions there is none, even if in on"] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSettings:
    """One job type: its function, not yet imported, and how the function is run."""

    call: Annotated[FunctionName, "the function"]
    run: Annotated[
        Literal["async", "asyncio", "process", "thread", "trio"] | None, "where it runs"
    ] = None
    timeout: Annotated[Timeout | None, "how long a job may take"] = None
    max_running: Annotated[
        Annotated[int, _integer(1, 100_000)] | None,
        "how many jobs of the type run at the same time",
    ] = None
    repeatable: Annotated[
        Switch, "whether a job may run again after the server has died while it ran"
    ] = True
    max_interruptions: Annotated[
        int, _integer(1, 1_000), "how often the server may die while a job runs before it ends"
    ] = 3
    paused: Annotated[
        Switch, "whether jobs of the type are held from the start, until somebody resumes it"
    ] = False
    spread: Annotated[
        Switch | None, "whether the payload is an object with the names of the parameters"
    ] = None
    hide: Annotated[Paths, "what no client sees of payloads and results"] = ()
    retry: Annotated[
        Annotated[RetrySettings, Meta(description="a table")] | None,
        "when a failed job gets another attempt",
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LifespanSettings:
    """For each place where handlers run, the function that opens what they share.

    The field ``async_`` is the setting ``async``, which is no name in Python.
    """

    async_: Annotated[
        FunctionName | None, "opened where pool.async_handlers says, for async handlers"
    ] = None
    trio: Annotated[FunctionName | None, "opened for handlers on Trio"] = None
    asyncio: Annotated[FunctionName | None, "opened for handlers on asyncio"] = None
    thread: Annotated[FunctionName | None, "opened for handlers in threads"] = None
    process: Annotated[FunctionName | None, "opened in each child process"] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration. Two are equal if their settings are, whatever their sources.

    Attributes:
        handlers: By job type; None without a ``[handlers]`` table, never empty.
        source: The file, as the user named it; None without a file.
        warnings: One line each, for the caller to log once logging is set up.
    """

    pool: PoolSettings = field(default_factory=PoolSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    lifespan: LifespanSettings = field(default_factory=LifespanSettings)
    handlers: Mapping[str, HandlerSettings] | None = None
    source: Path | None = field(default=None, compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)


# The sections whose keys have fixed names. The keys of [handlers] are job types.
SECTIONS: Final[Mapping[str, type[Any]]] = {
    "pool": PoolSettings,
    "http": HttpSettings,
    "store": StoreSettings,
    "logging": LoggingSettings,
    "metrics": MetricsSettings,
    "tracing": TracingSettings,
    "lifespan": LifespanSettings,
}
# By name in the file: ``pool.workers``.
SETTINGS: Final[Mapping[str, Setting]] = {
    f"{section}.{name}": setting
    for section, settings in SECTIONS.items()
    for name, setting in settings_of(settings).items()
}
_WholeSeconds = Annotated[int, _integer(1, _WEEK)]
# A parameter of `Jobs.asgi`, not a setting of the file: there it is `PoolSettings.retry_after`.
RETRY_AFTER: Final = Setting(
    type=_WholeSeconds,
    values=values_of(_WholeSeconds),
    description="the Retry-After of submissions to a closed pool",
    default=None,
    secret=False,
)
