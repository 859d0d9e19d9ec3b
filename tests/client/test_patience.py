"""`Patience`: pauses between tries, and their end; to the second, in virtual time."""

import anyio
import httpx
import pytest

from tests.client.support import on_both_loops, problem
from trio_jobs.client import ServerGoneError
from trio_jobs.client.patience import Patience

BROKEN = httpx.ReadError("reset")


async def pauses(patience: Patience, *whys: httpx.Response | Exception) -> list[float]:
    lengths = []
    for why in whys:
        before = anyio.current_time()
        await patience.pause(why)
        lengths.append(round(anyio.current_time() - before, 6))
    return lengths


@on_both_loops
async def test_pauses_grow_from_a_tenth_of_a_second_to_five() -> None:
    patience = Patience(60, chance=lambda: 1.0)

    assert await pauses(patience, *[BROKEN] * 8) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]


@on_both_loops
async def test_chance_halves_a_pause_at_most() -> None:
    assert await pauses(Patience(60, chance=lambda: 0.0), BROKEN, BROKEN) == [0.05, 0.1]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2),
        ("25", 5),
        ("0", 0.1),
        ("-3", 0.1),
        ("nan", 0.1),
        ("inf", 5),
        ("Wed, 25 Nov 2026 08:00:01 GMT", 0.1),
    ],
)
@on_both_loops
async def test_pause_is_what_the_server_asks_for(header: str, seconds: float) -> None:
    patience = Patience(60, chance=lambda: 1.0)

    assert await pauses(patience, problem(503, Retry_After=header)) == [seconds]


@on_both_loops
async def test_last_pause_ends_with_the_time_and_then_the_client_gives_up() -> None:
    patience = Patience(7, chance=lambda: 1.0)
    full = problem(429, "no room", Retry_After="5")

    assert await pauses(patience, full, full) == [5, 2]
    with pytest.raises(ServerGoneError, match=r"^gave up after 7 s: 429: no room$") as caught:
        await patience.pause(full)

    assert caught.value.last == 429


@on_both_loops
async def test_time_begins_with_the_first_failure_and_again_after_progress() -> None:
    patience = Patience(5, chance=lambda: 1.0)
    await anyio.sleep(100)
    assert await pauses(patience, problem(503, Retry_After="5")) == [5]
    patience.note_progress()
    await anyio.sleep(100)
    assert await pauses(patience, BROKEN, problem(503, Retry_After="5")) == [0.1, 4.9]

    with pytest.raises(ServerGoneError, match=r"^gave up after 5 s: ReadError: reset$") as caught:
        await patience.pause(BROKEN)
    assert caught.value.last is BROKEN
    assert caught.value.__cause__ is BROKEN


@on_both_loops
async def test_without_time_the_first_failure_is_the_end() -> None:
    with pytest.raises(ServerGoneError):
        await Patience(0).pause(BROKEN)


@on_both_loops
async def test_answer_that_is_not_read_has_its_phrase() -> None:
    answer = httpx.Response(502, stream=httpx.ByteStream(b""))

    with pytest.raises(ServerGoneError, match="502: Bad Gateway"):
        await Patience(0).pause(answer)
