"""A policy decides by what was raised, how often, and nothing else."""

import math
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, replace
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trio_jobs import (
    GiveUp,
    Handler,
    HandlerError,
    JobError,
    ProcessDied,
    Retry,
    RetryPolicy,
    Snooze,
)
from trio_jobs.handlers.retry_policy import decide, resolve
from trio_jobs.job import Later
from trio_jobs.retries import Cause, causes_of
from trio_jobs.setting_type import ConfigError

ERROR = JobError(type="E", message="m")


def seconds(policy: RetryPolicy, error: BaseException, attempt: int = 1) -> float | None:
    later = decide(resolve(policy, module=__name__), attempt, ERROR, causes_of(error))
    assert later is None or (later.error, later.snooze) == (ERROR, False)
    return None if later is None else later.seconds


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("g", errors)


class RefusedError(ConnectionError):
    """An error of the user's."""


EXACT = RetryPolicy(attempts=3, jitter=False, base=7, factor=2)


@pytest.mark.parametrize(
    ("on", "never", "error", "is_repeated"),
    [
        (["Exception"], [], ValueError(), True),
        (["Exception"], [], SystemExit(), False),
        (["Exception"], [], KeyboardInterrupt(), False),
        (["BaseException"], [], KeyboardInterrupt(), True),
        (["SystemExit"], [], SystemExit(), True),
        (["OSError"], [], RefusedError(), True),
        ([OSError], [], RefusedError(), True),
        (["OSError"], [], ValueError(), False),
        (["ValueError", "OSError"], [], TimeoutError(), True),
        (["OSError"], ["ConnectionError"], RefusedError(), False),
        (["OSError"], [f"{__name__}.RefusedError"], RefusedError(), False),
        (["OSError"], [RefusedError], ConnectionError(), True),
        (["OSError"], ["OSError"], OSError(), False),
        ([RefusedError], ["Exception"], RefusedError(), False),
        (["OSError"], [], ProcessDied("x"), False),
        (["trio_jobs.ProcessDied"], [], ProcessDied("x"), True),
        (["Exception"], [], GiveUp("x"), False),
        ([GiveUp], [], GiveUp("x"), False),
        (["OSError"], [], group(OSError(), TimeoutError()), True),
        (["OSError"], [], group(OSError(), ValueError()), False),
        (["OSError"], [], group(OSError(), group(ValueError())), False),
        (["OSError"], [], group(OSError(), group(RefusedError(), group(OSError()))), True),
        (["OSError"], [RefusedError], group(OSError(), group(RefusedError())), False),
        (["Exception"], [], group(OSError(), GiveUp("x")), False),
        (["Exception"], [], group(Retry(), GiveUp("x")), False),
        (["Exception"], [], group(Snooze(1), GiveUp("x")), False),
        (["OSError"], [], group(Retry(), OSError()), True),
        (["OSError"], [], group(Retry(), ValueError()), False),
        (["OSError"], [], group(Snooze(1), ValueError()), False),
        # A group is its members, not its own class.
        (["ExceptionGroup"], [], group(OSError()), False),
        (["Exception"], [], group(OSError(), KeyboardInterrupt()), False),
    ],
)
def test_never_wins_over_on_and_a_group_is_all_of_its_members(
    on: Sequence[str | type[BaseException]],
    never: Sequence[str | type[BaseException]],
    error: BaseException,
    is_repeated: bool,
) -> None:
    policy = replace(EXACT, on=on, never=never)

    assert (seconds(policy, error) is not None) is is_repeated


def test_a_class_that_has_another_behind_its_name_is_meant_itself() -> None:
    class TimeoutError(Exception):  # noqa: A001 - that is what is tested
        pass

    own, pythons = (replace(EXACT, on=[each]) for each in (TimeoutError, "TimeoutError"))

    assert seconds(own, TimeoutError()) == 7
    assert seconds(own, OSError()) is None
    assert seconds(pythons, TimeoutError()) is None


async def test_a_cancelled_that_a_handler_has_kept_is_no_reason() -> None:
    kept: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            kept.append(error)
            raise

    assert seconds(EXACT, group(*kept)) is None
    assert seconds(EXACT, group(*kept, OSError())) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Retry(after=90), 90),
        (Retry(after=0), 0),
        (Retry(), 7),
        (group(Retry()), 7),
        (group(Retry(5), Retry(90), Retry()), 90),
        (group(Retry(5), OSError()), 5),
        (group(Retry(), Snooze(5)), 5),
        (group(Snooze(5), OSError()), 5),
    ],
)
def test_the_handlers_time_is_used_as_it_is(error: BaseException, expected: float) -> None:
    # Neither `on` nor the jitter is for what the handler has decided.
    for policy in (EXACT, replace(EXACT, never=[Retry])):
        assert seconds(policy, error) == expected
    if expected != 7:
        assert seconds(replace(EXACT, jitter=True), error) == expected


@pytest.mark.parametrize("error", [OSError(), Retry(), Retry(5), group(Snooze(3), OSError())])
def test_nothing_comes_after_the_last_attempt(error: BaseException) -> None:
    assert seconds(EXACT, error, 2) is not None
    assert seconds(EXACT, error, 3) is None
    assert seconds(EXACT, error, 30) is None
    assert seconds(RetryPolicy(), error) is None
    assert decide(None, 1, ERROR, causes_of(error)) is None


@pytest.mark.parametrize("policy", [None, EXACT, RetryPolicy(never=["Exception"])])
@pytest.mark.parametrize("attempt", [1, 3, 1000])
def test_a_snooze_needs_no_policy_and_is_no_error(policy: RetryPolicy | None, attempt: int) -> None:
    def snooze(error: BaseException) -> Later | None:
        return decide(policy, attempt, ERROR, causes_of(error))

    assert snooze(Snooze(30)) == Later(seconds=30, snooze=True)
    assert snooze(group(Snooze(30), group(Snooze(60)))) == Later(seconds=60, snooze=True)
    # Jobs that snooze for no time at all would keep the event loop busy.
    assert snooze(Snooze(0)) == Later(seconds=0.001, snooze=True)


@pytest.mark.parametrize("causes", [(), (Cause(()),)])
def test_what_is_not_known_is_not_repeated(causes: tuple[Cause, ...]) -> None:
    assert decide(replace(EXACT, on=["BaseException"]), 1, ERROR, causes) is None


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetryPolicy(attempts=9), [2, 8, 32, 128, 512, 2048, 3600, 3600]),
        (RetryPolicy(attempts=5, base=3, factor=1), [3, 3, 3, 3]),
        (RetryPolicy(attempts=5, base=10, factor=10, cap=500), [10, 100, 500, 500]),
        (RetryPolicy(attempts=3, base=10, cap=5), [5, 5]),
        (RetryPolicy(attempts=4, backoff="constant", base=10, cap=5), [10, 10, 10]),
        (RetryPolicy(attempts=6, backoff=[5, 60, 7200]), [5, 60, 7200, 7200, 7200]),
        (RetryPolicy(attempts=3, backoff=[0]), [0, 0]),
        (RetryPolicy(attempts=4, base=0), [0, 0, 0]),
    ],
)
def test_the_times_between_attempts(policy: RetryPolicy, expected: list[float]) -> None:
    exact = replace(policy, jitter=False)

    times = [seconds(exact, OSError(), n) for n in range(1, policy.attempts + 1)]

    assert times == [*expected, None]
    assert [policy.delay(n + 1, random=lambda: 1.0) for n in range(len(expected))] == expected
    assert [policy.delay(n + 1, random=lambda: 0.0) * 2 for n in range(len(expected))] == expected


SECONDS = st.floats(0, 604_800)


@given(
    st.builds(
        RetryPolicy,
        attempts=st.integers(1, 1000),
        backoff=st.sampled_from(["exponential", "constant"]) | st.lists(SECONDS, min_size=1),
        base=SECONDS,
        factor=st.floats(1, 1000),
        cap=SECONDS,
        jitter=st.booleans(),
    ),
    st.integers(1, 1000),
    st.randoms(use_true_random=False),
)
def test_jitter_gives_at_least_half_of_the_time_and_never_more(
    policy: RetryPolicy, attempt: int, generator: Random
) -> None:
    exact = replace(policy, jitter=False).delay(attempt)

    found = policy.delay(attempt, random=generator.random)

    assert 0 <= exact / 2 <= found <= exact <= 604_800
    assert policy.jitter or found == exact
    if policy.backoff == "exponential":
        assert exact <= policy.cap
    if attempt > 1:
        before = replace(policy, jitter=False).delay(attempt - 1)
        assert isinstance(policy.backoff, tuple) or before <= exact


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("attempts", [0, -1, 1001, True, 1.0, "3", None, math.nan]),
        ("backoff", ["", "linear", [], (), [True], [-1], [math.nan], [math.inf], ["1"], 3, None]),
        ("base", [-1, math.nan, math.inf, True, "1", None, 604_801]),
        ("factor", [0.5, -1, math.nan, math.inf, True, "2", 1001]),
        ("cap", [-1, math.nan, math.inf, True, "1"]),
        ("jitter", [0, 1, "true", None, 0.5]),
        ("on", [[], (), "OSError", OSError, [int], [3], [""], ["a b"], [OSError("x")], None]),
        ("never", ["OSError", OSError, [int], [3], ["a:b"], None, ["OSError", object()]]),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, wrong: list[object]) -> None:
    for value in wrong:
        with pytest.raises(ConfigError, match=f"^{name} must be .*, got ") as refusal:
            RetryPolicy(**{name: value})  # type: ignore[arg-type]  # that is what is tested

        assert isinstance(refusal.value, ValueError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backoff", "constant"),
        ("base", 5),
        ("factor", 2),
        ("cap", 60),
        ("jitter", False),
        ("on", [OSError]),
        ("on", [Exception]),
        ("never", ["OSError"]),
    ],
)
def test_settings_of_further_attempts_that_there_are_not_are_refused(
    name: str, value: object
) -> None:
    async def handler(payload: object) -> None:
        """Never called."""

    retry = RetryPolicy(attempts=1, **{name: value})  # type: ignore[arg-type]

    with pytest.raises(HandlerError, match=rf"^retry\.{name} has no effect: retry\.attempts is 1$"):
        Handler.of(handler, retry=retry)
    Handler.of(handler, retry=replace(retry, attempts=2))
    Handler.of(handler, retry=RetryPolicy(attempts=1))


def test_a_policy_cannot_be_changed_not_even_by_its_lists() -> None:
    backoff, on = [1.0], [OSError]
    policy = RetryPolicy(attempts=2, backoff=backoff, on=on)

    backoff.append(2.0)
    on.append(KeyError)  # type: ignore[arg-type]  # that is what is tested

    assert (policy.backoff, policy.on) == ((1.0,), (OSError,))
    with pytest.raises(FrozenInstanceError):
        policy.attempts = 3  # type: ignore[misc]  # that is what is tested
