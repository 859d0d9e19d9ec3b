"""`RetryPolicy`: whether a job that has failed gets another attempt, and when."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from trio_jobs.handlers.exception_names import load_exception
from trio_jobs.handlers.importing import HandlerError
from trio_jobs.job import JobError, Later
from trio_jobs.retries import Cause, class_name
from trio_jobs.setting_type import build
from trio_jobs.settings import RetrySettings

# The defaults.
_RETRY = RetrySettings()

# Seconds until a job runs that is to wait for less: a job that does nothing but snooze for no time
# at all would keep the event loop busy.
_MIN_SNOOZE = 0.001

Exceptions = Sequence[str | type[BaseException]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When a failed job gets another attempt.

    A time limit counts as a `TimeoutError`, the death of a child process as a `ProcessDied`. A
    group of exceptions permits another attempt if each exception in it does. A cancelled job gets
    none.

    Attributes:
        attempts: How often a job runs at most, snoozes not counted; 1 for no other attempt.
        backoff: Seconds until the next attempt: ``"exponential"`` is ``base``, then each time
            ``factor`` times the one before, up to ``cap``; ``"constant"`` is ``base``; a sequence
            gives a time for each attempt, and its last time for all further ones.
        base: See ``backoff``.
        factor: See ``backoff``.
        cap: The longest exponential time.
        jitter: Whether each time is multiplied by a random number from 0.5 to 1. Jobs that fail
            together then come back apart, and none comes back at once.
        on: The exceptions, classes or names like ``"OSError"`` or ``"package.module.Class"``,
            after which there is another attempt; also after their subclasses.
        never: The exceptions after which there is none, even if they are in ``on``.

    Raises:
        ConfigError: A value is of another type, or out of its range (a ValueError); the text
            names the attribute.
    """

    attempts: int = _RETRY.attempts
    backoff: Literal["exponential", "constant"] | Sequence[float] = _RETRY.backoff
    base: float = _RETRY.base
    factor: float = _RETRY.factor
    cap: float = _RETRY.cap
    jitter: bool = _RETRY.jitter
    on: Exceptions = _RETRY.on
    never: Exceptions = _RETRY.never

    def __post_init__(self) -> None:
        checked = build(
            RetrySettings,
            attempts=self.attempts,
            backoff=self.backoff,
            base=self.base,
            factor=self.factor,
            cap=self.cap,
            jitter=self.jitter,
            on=_names(self.on),
            never=_names(self.never),
        )
        for name in ("attempts", "backoff", "base", "factor", "cap", "jitter"):
            object.__setattr__(self, name, getattr(checked, name))
        # Classes stay: a class that a function defines, or one that another has replaced under its
        # name, cannot be found by its name.
        for name in ("on", "never"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def delay(self, attempt: int, *, random: Callable[[], float] = random.random) -> float:
        """Seconds between the end of this attempt, counted from 1, and the next one.

        Args:
            attempt: The attempt that has failed.
            random: Gives a number from 0 to 1 for the jitter. The default is Python's generator,
                which a test can seed.
        """
        if isinstance(self.backoff, str):
            seconds = self.base
            if self.backoff == "exponential":
                try:
                    seconds = min(self.cap, self.base * self.factor ** (attempt - 1))
                except OverflowError:
                    seconds = self.cap if self.base else 0.0
        else:
            seconds = self.backoff[min(attempt, len(self.backoff)) - 1]
        return seconds * (0.5 + random() / 2) if self.jitter else seconds


def resolve(policy: RetryPolicy, *, module: str) -> RetryPolicy:
    """The same policy with classes for the names of exceptions.

    Args:
        policy: The policy.
        module: The module of the handler; a refusal may name an exception in it.

    Raises:
        HandlerError: There is no such exception; the text names the nearest. Or the policy has
            settings for other attempts, and ``attempts`` permits none.
    """
    classes = {}
    for setting, exceptions in (("on", policy.on), ("never", policy.never)):
        try:
            classes[setting] = [
                load_exception(each, module=module) if isinstance(each, str) else each
                for each in exceptions
            ]
        except HandlerError as error:
            raise HandlerError(f"retry.{setting}: {error}") from error
    if policy.attempts == 1:
        _check_no_setting(policy)
    return replace(policy, on=classes["on"], never=classes["never"])


def _check_no_setting(policy: RetryPolicy) -> None:
    for each in fields(policy):
        if each.name != "attempts" and getattr(policy, each.name) != each.default:
            raise HandlerError(f"retry.{each.name} has no effect: retry.attempts is 1")


def decide(
    policy: RetryPolicy | None, attempt: int, error: JobError, causes: Sequence[Cause]
) -> Later | None:
    """Decide about a failed attempt.

    Args:
        policy: The handler's policy, with classes for all names but those of Python's exceptions;
            None for a handler without one.
        attempt: The attempt that has failed, from 1.
        error: What the attempt has failed with, for the job's clients.
        causes: The causes of the failure; if there are none, there is no further attempt.

    Returns:
        When there is another attempt; None if the job has failed.
    """
    asked = [each.seconds for each in causes if each.seconds is not None]
    if {each.wish for each in causes} == {"snooze"}:
        return Later(seconds=max(_MIN_SNOOZE, *asked), snooze=True)
    if policy is None or attempt >= policy.attempts or not causes:
        return None
    if not all(_permits(policy, each) for each in causes):
        return None
    return Later(seconds=max(asked) if asked else policy.delay(attempt), error=error)


def _permits(policy: RetryPolicy, cause: Cause) -> bool:
    if cause.wish is not None:
        return cause.wish != "give_up"
    return _is_any_of(cause, policy.on) and not _is_any_of(cause, policy.never)


def _is_any_of(cause: Cause, exceptions: Exceptions) -> bool:
    # By name: a child process has classes of its own.
    return any(
        (f"builtins.{each}" if isinstance(each, str) else class_name(each)) in cause.kinds
        for each in exceptions
    )


def _names(exceptions: object) -> object:
    """The value to check, with a valid name for each class of exceptions."""
    if not isinstance(exceptions, list | tuple | set | frozenset):
        return exceptions
    return [
        "Exception" if isinstance(each, type) and issubclass(each, BaseException) else each
        for each in exceptions
    ]
