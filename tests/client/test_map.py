"""`AsyncClient.map` and `stream`, against a fake pipe, on both event loops, in virtual time."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.lowlevel
import httpx
import msgspec
import pytest

from tests.client.fake_pipe import Fate, fake_pipe
from tests.client.support import on_both_loops, problem
from trio_jobs.client import JobUnsuccessfulError, RefusedError, ServerGoneError


async def sleep(seconds: object) -> object:
    """A job that takes so many seconds."""
    assert isinstance(seconds, int)
    await anyio.sleep(seconds)
    return seconds


class Counted:
    """An endless iterable that counts what was pulled."""

    def __init__(self) -> None:
        self.pulled = 0

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count():
            self.pulled += 1
            yield number


@on_both_loops
async def test_each_payload_has_one_result() -> None:
    async with fake_pipe() as (client, server), client.map("double", range(500)) as results:
        values = {result.line: result.value() async for result in results}

    assert values == {number + 1: 2 * number for number in range(500)}
    assert server.open == 0


@on_both_loops
async def test_no_payloads_are_no_request() -> None:
    async with fake_pipe() as (client, server), client.map("double", []) as results:
        assert [result async for result in results] == []

    assert server.requests == []


@on_both_loops
async def test_stream_has_jobs_of_several_types() -> None:
    async with (
        fake_pipe() as (client, server),
        client.stream([("double", 1), ("other", 2)]) as results,
    ):
        values = {result.line: result.value() async for result in results}

    assert values == {1: 2, 2: 4}
    assert [line["type"] for lines in server.requests for line in lines] == ["double", "other"]


@on_both_loops
async def test_a_result_says_how_its_job_ended() -> None:
    async with fake_pipe() as (client, _), client.map("double", [-1]) as results:
        (result,) = [result async for result in results]

    assert (result.line, result.outcome, result.id) == (1, "failed", "job-1")
    assert result.key is not None
    with pytest.raises(JobUnsuccessfulError, match="job 'job-1' failed: ValueError: no"):
        result.value()


class Doubled(msgspec.Struct):
    """A result that is no number."""

    number: int


@on_both_loops
async def test_value_is_of_the_named_type_and_a_wrong_one_costs_no_other() -> None:
    async def make(payload: object) -> object:
        return {"number": 2} if payload == 1 else "no number"

    async with (
        fake_pipe(make) as (client, _),
        client.map("double", [1, 2], result=Doubled, ordered=True) as results,
    ):
        good, bad = [result async for result in results]

    assert good.value() == Doubled(2)
    assert bad.json == b'"no number"'
    with pytest.raises(msgspec.ValidationError, match="Expected `object`, got `str`"):
        bad.value()


@on_both_loops
async def test_each_call_has_keys_of_its_own() -> None:
    async with fake_pipe() as (client, server):
        for _ in range(2):
            async with client.map("double", [7, 7]) as results:
                assert [result.value() async for result in results] == [14, 14]

    assert sorted(server.runs.values()) == [1, 1, 1, 1]


@on_both_loops
async def test_key_names_the_records_and_a_second_call_gets_the_jobs_that_are_there() -> None:
    async with fake_pipe() as (client, server):
        for replayed in (False, True):
            async with client.map("double", [5, 6], key=lambda line: f"day-{line}") as results:
                found = [result async for result in results]
            assert {result.key for result in found} == {"day-1", "day-2"}
            assert [result.replayed for result in found] == [replayed, replayed]

    assert server.runs == {"day-1": 1, "day-2": 1}


@on_both_loops
async def test_a_key_that_is_none_comes_out_of_the_loop() -> None:
    async with fake_pipe() as (client, _), client.map("double", [1], key=lambda _: "") as results:
        with pytest.raises(ValueError, match="key must be 1 to 255"):
            await anext(results)


# How far ahead it goes.


@on_both_loops
async def test_payloads_are_pulled_as_results_are_taken() -> None:
    payloads = Counted()
    async with fake_pipe() as (client, _), client.map("double", payloads, in_flight=8) as results:
        for taken in range(1, 101):
            await anext(results)
            await anyio.wait_all_tasks_blocked()
            assert payloads.pulled <= taken - 1 + 8

        assert payloads.pulled >= 100


@on_both_loops
async def test_a_loop_that_takes_nothing_pulls_no_more_than_in_flight() -> None:
    payloads = Counted()
    async with fake_pipe() as (client, server):
        async with client.map("double", payloads, in_flight=20):
            await anyio.wait_all_tasks_blocked()

        assert payloads.pulled == 20
        assert sum(server.runs.values()) == 20


@on_both_loops
async def test_other_tasks_run_while_many_payloads_are_pulled() -> None:
    ticks = 0
    seen: list[int] = []

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await anyio.lowlevel.checkpoint()

    def payloads() -> Iterator[int]:
        for number in range(1000):
            seen.append(ticks)
            yield number

    async with fake_pipe() as (client, server):
        server.start_soon(tick)
        async with client.map("double", payloads(), in_flight=1000) as results:
            await anext(results)

    assert seen[0] < seen[-1]


@on_both_loops
async def test_one_in_flight_is_one_job_at_a_time() -> None:
    running = most = 0

    async def handle(_: object) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        running -= 1
        return None

    async with (
        fake_pipe(handle) as (client, _),
        client.map("double", range(5), in_flight=1) as results,
    ):
        assert len([result async for result in results]) == 5

    assert most == 1
    assert anyio.current_time() == pytest.approx(5)


@on_both_loops
async def test_in_flight_is_at_least_one() -> None:
    async with fake_pipe() as (client, _):
        with pytest.raises(ValueError, match="in_flight must be at least 1, got 0"):
            client.map("double", [], in_flight=0)


@on_both_loops
async def test_ordered_results_come_in_the_order_of_the_payloads() -> None:
    seconds = [9, 1, 5, 1, 7, 3, 2, 8]
    async with (
        fake_pipe(sleep) as (client, _),
        client.map("sleep", seconds, ordered=True, in_flight=4) as results,
    ):
        found = [(result.line, result.value()) async for result in results]

    assert found == list(enumerate(seconds, 1))


@on_both_loops
async def test_ordered_holds_back_no_more_than_in_flight() -> None:
    payloads = Counted()

    async def first_is_slow(payload: object) -> object:
        await anyio.sleep(100 if payload == 0 else 0)
        return payload

    async with (
        fake_pipe(first_is_slow) as (client, _),
        client.map("slow", payloads, ordered=True, in_flight=12) as results,
    ):
        assert (await anext(results)).value() == 0
        assert payloads.pulled == 12


@on_both_loops
async def test_a_trickle_has_each_answer_at_once() -> None:
    async def one_each_second() -> AsyncIterator[int]:
        for number in range(20):
            yield number
            await anyio.sleep(1)

    async with fake_pipe() as (client, _), client.map("double", one_each_second()) as results:
        at = {result.value(): anyio.current_time() async for result in results}

    assert at == pytest.approx({2 * number: number for number in range(20)})


@on_both_loops
async def test_slow_jobs_do_not_hold_up_a_trickle() -> None:
    async def one_each_second() -> AsyncIterator[int]:
        for _ in range(12):
            yield 60
            await anyio.sleep(1)

    async with (
        fake_pipe(sleep) as (client, _),
        client.map("sleep", one_each_second()) as results,
    ):
        assert len([result async for result in results]) == 12

    # The last one begins in the second 11, and waits for company for a moment.
    assert anyio.current_time() == pytest.approx(71, abs=0.2)


@on_both_loops
async def test_slow_jobs_do_not_hold_up_the_quick_ones() -> None:
    # One slow job in each of the first requests.
    seconds = [1000 if number % 50 == 0 else 1 for number in range(200)] + [1] * 1000
    async with (
        fake_pipe(sleep) as (client, server),
        client.map("sleep", seconds, in_flight=200) as results,
    ):
        count = 0
        async for result in results:
            count += result.value() == 1
            if count == 1196:
                break
        assert anyio.current_time() < 20

    assert server.most_open <= 16


@on_both_loops
async def test_requests_are_few_and_full_while_the_server_keeps_up() -> None:
    async with (
        fake_pipe() as (client, server),
        client.map("double", range(1200), in_flight=200) as results,
    ):
        assert len([result async for result in results]) == 1200

    sizes = [len(lines) for lines in server.requests]
    assert max(sizes) == 100
    assert len(sizes) <= 40
    assert server.most_open <= 5


@pytest.mark.parametrize("seconds", [0, 1])
@on_both_loops
async def test_lines_are_all_in_the_server_at_a_time_only_if_their_jobs_are_quick(
    seconds: int,
) -> None:
    async with (
        fake_pipe(sleep) as (client, server),
        client.map("sleep", [seconds] * 200, in_flight=20) as results,
    ):
        assert len([result async for result in results]) == 200

    assert server.windows[0] is None
    sizes = [None if seconds else len(lines) for lines in server.requests]
    assert server.windows[4:] == sizes[4:]


@on_both_loops
async def test_a_request_has_at_most_200_lines_and_256_kib() -> None:
    async def length(payload: object) -> object:
        assert isinstance(payload, str)
        return len(payload)

    texts = ["x"] * 700 + ["y" * 100_000] * 10 + ["z" * 400_000]
    async with (
        fake_pipe(length) as (client, server),
        client.map("length", texts, in_flight=800) as results,
    ):
        total = sum([result.value() async for result in results])

    assert total == sum(map(len, texts))
    assert max(map(len, server.requests)) == 200
    large = [body for body in server.bodies if len(body) > 256 * 1024 + 200 * 60]
    assert [body.count(b"\n") for body in large] == [1]


# What breaks.


@on_both_loops
async def test_a_broken_connection_costs_no_record_and_no_second_run() -> None:
    async with (
        fake_pipe(fates=[Fate(cut=500)]) as (client, server),
        client.map("double", range(100)) as results,
    ):
        values = {result.line: result.value() async for result in results}

    assert values == {number + 1: 2 * number for number in range(100)}
    assert set(server.runs.values()) == {1}


@on_both_loops
async def test_an_answer_without_its_last_line_is_incomplete() -> None:
    first_of_two = b'\n{"line":1,"outcome":"succeeded","result":7}\n'
    reply = httpx.Response(200, content=first_of_two)
    async with (
        fake_pipe(fates=[Fate(reply=reply)]) as (client, server),
        client.map("double", [1, 2], in_flight=8, ordered=True) as results,
    ):
        assert [result.value() async for result in results] == [7, 4]

    assert [len(lines) for lines in server.requests] == [2, 1]


@on_both_loops
async def test_jobs_that_had_not_completed_when_the_server_stopped_are_sent_again() -> None:
    async with (
        fake_pipe(fates=[Fate(stop=10)]) as (client, server),
        client.map("double", range(50)) as results,
    ):
        assert len({result.line async for result in results}) == 50

    assert [len(lines) for lines in server.requests] == [50, 40]
    assert set(server.runs.values()) == {1}


@pytest.mark.parametrize(
    "trouble",
    [
        problem(503, Retry_After="2"),
        problem(429),
        problem(502),
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("silent"),
        httpx.Response(200, content=b"<html>a proxy's</html>\n"),
        httpx.Response(200, content=b'\xff{"line":1}\n'),
        httpx.Response(200, content=b""),
        httpx.Response(200, content=b'\n{"end":"input"}\n'),
        httpx.Response(200, content=b'\n{"line":77,"outcome":"succeeded"}\n{"line":1}\n'),
    ],
    ids=lambda trouble: f"{trouble!r}{getattr(trouble, 'content', b'')[:9]!r}",
)
@on_both_loops
async def test_trouble_that_passes_is_no_business_of_the_loop(
    trouble: httpx.Response | Exception,
) -> None:
    async with (
        fake_pipe(fates=[Fate(reply=trouble)] * 3) as (client, server),
        client.map("double", [1, 2], ordered=True) as results,
    ):
        assert [result.value() async for result in results] == [2, 4]

    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 401, 403, 404, 415, 500])
@on_both_loops
async def test_a_server_that_refuses_the_requests_ends_the_loop(status: int) -> None:
    async with fake_pipe(fates=[Fate(reply=problem(status, "not you"))] * 4) as (client, server):
        async with client.map("double", Counted()) as results:
            with pytest.raises(RefusedError, match=f"{status}: not you"):
                await anext(results)

        assert server.open == 0


@on_both_loops
async def test_a_record_that_a_proxy_finds_too_large_is_refused_alone() -> None:
    reply = problem(413, "request entity too large")
    async with (
        fake_pipe(fates=[Fate(reply=reply)]) as (client, _),
        client.map("double", [1, 2], in_flight=1) as results,
    ):
        refused, good = [result async for result in results]

    assert (refused.line, refused.outcome, refused.id) == (1, "refused", None)
    with pytest.raises(JobUnsuccessfulError, match="refused: Refused: request entity too large"):
        refused.value()
    assert good.value() == 4


@on_both_loops
async def test_a_proxy_that_takes_no_whole_request_ends_the_loop() -> None:
    fates = itertools.repeat(Fate(reply=problem(413, "request entity too large")))
    async with (
        fake_pipe(fates=fates) as (client, _),
        client.map("double", [1, 2], in_flight=4) as results,
    ):
        with pytest.raises(RefusedError, match="413: request entity too large"):
            await anext(results)


class Page(httpx.AsyncByteStream):
    """A page of a proxy, which never ends."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"<html>\n"
        await anyio.sleep(10_000)


@on_both_loops
async def test_an_answer_of_something_else_is_left_at_once() -> None:
    reply = httpx.Response(200, stream=Page())
    async with (
        fake_pipe(fates=[Fate(reply=reply)]) as (client, _),
        client.map("double", [1]) as results,
    ):
        assert [result.value() async for result in results] == [2]

    assert anyio.current_time() < 1


@on_both_loops
async def test_a_line_that_is_too_long_is_refused_and_the_others_are_sent_again() -> None:
    body = b'\n{"line":1,"outcome":"succeeded","result":7}\n{"end":"too long","line":2}\n'
    async with (
        fake_pipe(fates=[Fate(reply=httpx.Response(200, content=body))]) as (client, server),
        client.map("double", [1, 2, 3], in_flight=12, ordered=True) as results,
    ):
        first, refused, last = [result async for result in results]

    assert (first.value(), last.value()) == (7, 6)
    assert refused.outcome == "refused"
    assert refused.error is not None
    assert refused.error.message == "the line is longer than the server allows"
    assert [len(lines) for lines in server.requests] == [3, 1]


@on_both_loops
async def test_a_server_that_stays_away_ends_the_loop_in_time() -> None:
    away = itertools.repeat(Fate(reply=httpx.ConnectError("refused")))
    async with (
        fake_pipe(fates=away, retry_for=30) as (client, _),
        client.map("double", Counted()) as results,
    ):
        with pytest.raises(ServerGoneError, match="gave up after 30 s: ConnectError: refused"):
            await anext(results)

    assert anyio.current_time() == pytest.approx(30, abs=1)


@on_both_loops
async def test_a_server_that_always_breaks_off_after_the_head_ends_the_loop_in_time() -> None:
    async with (
        fake_pipe(fates=itertools.repeat(Fate(cut=2)), retry_for=30) as (client, _),
        client.map("double", Counted()) as results,
    ):
        with pytest.raises(ServerGoneError, match="ReadError"):
            await anext(results)

    assert anyio.current_time() == pytest.approx(30, abs=1)


@on_both_loops
async def test_each_answer_renews_the_patience() -> None:
    # One answer each time, then the connection breaks: longer in all than `retry_for`.
    async def slow(payload: object) -> object:
        await anyio.sleep(10)
        return payload

    first = Fate(stop=1)
    async with (
        fake_pipe(slow, fates=[first] * 30, retry_for=5) as (client, _),
        client.map("slow", range(30), in_flight=1) as results,
    ):
        assert len([result async for result in results]) == 30

    assert anyio.current_time() > 290


@on_both_loops
async def test_a_server_that_says_it_is_there_renews_the_patience() -> None:
    async def job(payload: object) -> object:
        await anyio.sleep(1000)
        return payload

    # A proxy cuts each connection after the second blank line.
    async with (
        fake_pipe(job, fates=[Fate(cut=3)] * 10, retry_for=20) as (client, server),
        client.map("job", [1]) as results,
    ):
        assert [result.value() async for result in results] == [1]

    assert len(server.requests) == 11
    assert server.runs.total() == 1


@on_both_loops
async def test_a_server_that_forgot_the_records_runs_them_again() -> None:
    async with fake_pipe(sleep, fates=[Fate(cut=2)]) as (client, server):

        async def forget_soon() -> None:
            await anyio.sleep(0.01)
            server.forget()

        server.start_soon(forget_soon)
        async with client.map("sleep", [0, 5]) as results:
            assert [result.value() async for result in results] == [0, 5]

    assert list(server.runs.values()) == [2, 2]


# The end of the block.


@on_both_loops
async def test_leaving_the_loop_closes_the_connections_and_the_jobs_go_on() -> None:
    done = 0

    async def job(payload: object) -> object:
        nonlocal done
        await anyio.sleep(0 if payload == 0 else 10)
        done += 1
        return payload

    async with fake_pipe(job) as (client, server):
        async with client.map("job", range(100), in_flight=40) as results:
            async for _ in results:
                break
        assert server.open == 0
        assert done == 1

        await anyio.sleep(20)
        assert done == 40


@on_both_loops
async def test_an_error_of_the_loop_comes_out_as_it_is() -> None:
    async with fake_pipe(sleep) as (client, server):
        with pytest.raises(LookupError, match="mine"):  # noqa: PT012 - the block is tested
            async with client.map("sleep", range(100)) as results:
                async for _ in results:
                    raise LookupError("mine")

        assert server.open == 0


@on_both_loops
async def test_a_time_limit_around_the_block_closes_the_connections() -> None:
    async with fake_pipe(sleep) as (client, server):
        with anyio.move_on_after(1) as scope:
            async with client.map("sleep", [60]) as results:
                await anext(results)

        assert scope.cancelled_caught
        assert server.open == 0


@on_both_loops
async def test_a_cancelled_wait_for_a_result_loses_none() -> None:
    found: list[int] = []
    async with (
        fake_pipe(sleep) as (client, _),
        client.map("sleep", [3] * 50, in_flight=2) as results,
    ):
        while len(found) < 50:
            with anyio.move_on_after(1):
                found.append((await anext(results)).line)

    assert sorted(found) == list(range(1, 51))


@on_both_loops
async def test_results_are_taken_in_an_open_block_that_is_opened_once() -> None:
    async with fake_pipe() as (client, _):
        results = client.map("double", [1])
        with pytest.raises(RuntimeError, match="open it: async with"):
            await anext(results)
        async with results:
            assert [result.value() async for result in results] == [2]
            with pytest.raises(StopAsyncIteration):
                await anext(results)
        with pytest.raises(RuntimeError, match="a call of its own"):
            async with results:
                pass


@on_both_loops
async def test_results_that_outlive_their_block_do_not_look_complete() -> None:
    async with fake_pipe(sleep) as (client, _):
        async with client.map("sleep", [5]) as results:
            await anyio.wait_all_tasks_blocked()
        with pytest.raises(RuntimeError, match="was cancelled"):
            await anext(results)


# What the payloads raise.


@on_both_loops
async def test_an_error_of_the_payloads_comes_out_after_the_results_that_are_there() -> None:
    def payloads() -> Iterator[int]:
        yield from range(10)
        raise LookupError("mine")

    async with fake_pipe() as (client, server):
        with pytest.raises(LookupError, match="mine"):  # noqa: PT012 - the block is tested
            async with client.map("double", payloads(), in_flight=4) as results:
                async for _ in results:
                    await anyio.wait_all_tasks_blocked()

        assert server.open == 0
        assert server.runs.total() >= 6


@on_both_loops
async def test_an_error_of_async_payloads_closes_what_is_open() -> None:
    async def payloads() -> AsyncIterator[int]:
        yield 60
        await anyio.sleep(1)
        raise LookupError("mine")

    async with fake_pipe(sleep) as (client, server):
        with pytest.raises(LookupError, match="mine"):
            async with client.map("sleep", payloads()) as results:
                await anext(results)

        assert anyio.current_time() == pytest.approx(1)
        assert server.open == 0


@on_both_loops
async def test_a_payload_without_a_form_in_json_comes_out_of_the_loop() -> None:
    async with fake_pipe() as (client, _), client.map("double", [object()]) as results:
        with pytest.raises(ValueError, match="the payload is not serialisable"):
            await anext(results)


@on_both_loops
async def test_ctrl_c_in_the_payloads_comes_out_as_it_is() -> None:
    def payloads() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    async with fake_pipe(sleep) as (client, _):
        with pytest.raises(KeyboardInterrupt):
            async with client.map("sleep", payloads()) as results:
                await anext(results)


@on_both_loops
async def test_async_payloads_are_closed_when_the_loop_is_left() -> None:
    closed = False

    async def payloads() -> AsyncIterator[int]:
        nonlocal closed
        try:
            for number in itertools.count():
                yield number
        finally:
            closed = True

    async with fake_pipe() as (client, _), client.map("double", payloads()) as results:
        await anext(results)

    assert closed


def test_a_future_that_is_cancelled_under_the_payloads_ends_the_loop() -> None:
    async def payloads() -> AsyncIterator[int]:
        yield 60
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def main() -> None:
        async with (
            fake_pipe(sleep) as (client, _),
            client.map("sleep", payloads()) as results,
        ):
            with pytest.raises(asyncio.CancelledError):
                await anext(results)

    asyncio.run(main())
