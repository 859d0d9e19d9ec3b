"""`Slices`: every line is answered once, wherever connections break; and how it stops."""

import itertools
from collections.abc import AsyncIterator, Iterator

import anyio
import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.client.fake_pipe import Fate, fake_pipe
from tests.client.support import on_both_loops, problem, run_on
from tests.client.test_map import Counted, sleep
from tests.proof.share import scaled
from trio_jobs.client.pipe_lines import Line
from trio_jobs.client.slices import Slices

REPLIES = st.sampled_from(
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.DecodingError("incorrect header check"),
        httpx.Response(200, content=b""),
        httpx.Response(200, content=b"<html>\n"),
        problem(503, Retry_After="1"),
    ]
)
FATES = st.lists(
    st.one_of(
        st.builds(Fate, cut=st.integers(1, 400)),
        st.builds(Fate, stop=st.integers(0, 4)),
        st.builds(Fate, reply=REPLIES),
    ),
    max_size=8,
)


@pytest.mark.parametrize("loop", ["trio", "asyncio"])
@given(
    random=st.random_module(),
    seconds=st.lists(st.integers(0, 3), max_size=20),
    in_flight=st.integers(1, 12),
    ordered=st.booleans(),
    fates=FATES,
)
@settings(max_examples=scaled(40))
@example(random=None, seconds=[0] * 20, in_flight=12, ordered=True, fates=[Fate(cut=1)] * 8)
def test_each_record_is_answered_once_wherever_connections_break(
    loop: str, random: object, seconds: list[int], in_flight: int, ordered: bool, fates: list[Fate]
) -> None:
    async def program() -> None:
        async with fake_pipe(sleep, fates=fates) as (client, server):
            async with client.map(
                "sleep", seconds, in_flight=in_flight, ordered=ordered
            ) as results:
                found = [(result.line, result.value()) async for result in results]
            assert (found if ordered else sorted(found)) == list(enumerate(seconds, 1))
            assert all(count == 1 for count in server.runs.values())
            assert server.open == 0

    run_on(loop, program)


def lines(payloads: Iterator[int]) -> Iterator[Line]:
    """Lines of these payloads, whose numbers are 10 apart."""
    for number, payload in enumerate(payloads, 1):
        yield Line(10 * number, b'{"type": "sleep",\n "payload": %d}' % payload, f"key-{number}")


async def take_all(slices: Slices, taken: dict[int, str]) -> None:
    """Take all answers, and note the outcome of each number."""
    while answers := await slices.take():
        for answer in answers:
            assert answer.number not in taken
            assert answer.result.line == answer.number
            taken[answer.number] = answer.result.outcome
        slices.release(len(answers))


@on_both_loops
async def test_lines_are_sent_as_they_are_and_answers_come_as_they_are() -> None:
    async with fake_pipe(sleep) as (client, server):
        slices = client.slices()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slices.run, lines(iter([3])))
            (answer,) = await slices.take()
            slices.release(1)
            assert await slices.take() == []

    assert server.bodies == [b'{"key":"key-1","type": "sleep",  "payload": 3}\n']
    assert answer.number == 10
    assert answer.text.startswith(b'{"line": 1, "key": "key-1", "id": "job-1"')


@on_both_loops
async def test_a_line_that_is_an_empty_object_has_its_key_too() -> None:
    assert Line(1, b" { } ", "k").encode() == b'{"key":"k" }\n'


@on_both_loops
async def test_stop_waits_for_the_lines_that_were_sent_and_sends_no_more() -> None:
    payloads = Counted()
    taken: dict[int, str] = {}

    async def handle(payload: object) -> object:
        await anyio.sleep(5)
        return payload

    async with fake_pipe(handle) as (client, server), anyio.create_task_group() as tasks:
        slices = client.slices(in_flight=30)
        tasks.start_soon(slices.run, lines(iter(payloads)))
        tasks.start_soon(take_all, slices, taken)
        await anyio.sleep(7)
        sent = server.runs.total()
        slices.stop()
        slices.stop()

    assert sent == slices.outstanding + len(taken) == len(taken)
    assert set(taken.values()) == {"succeeded"}
    assert server.runs.total() == sent


@on_both_loops
async def test_stop_drops_the_lines_that_wait_for_others() -> None:
    async def one_each_second() -> AsyncIterator[Line]:
        for line in lines(itertools.repeat(100)):
            yield line
            await anyio.sleep(1)

    taken: dict[int, str] = {}
    async with fake_pipe(sleep) as (client, server), anyio.create_task_group() as tasks:
        slices = client.slices(in_flight=8)
        tasks.start_soon(slices.run, one_each_second())
        tasks.start_soon(take_all, slices, taken)
        await anyio.sleep(6.5)
        # Behind five slow ones, more than half of eight, two wait for company.
        assert slices.outstanding == server.runs.total() == 5
        slices.stop()

    assert len(taken) == server.runs.total() == 5


@on_both_loops
async def test_stop_does_not_wait_for_a_source_that_is_silent() -> None:
    async with fake_pipe(sleep) as (client, _), anyio.create_task_group() as tasks:
        slices = client.slices()
        send, receive = anyio.create_memory_object_stream[Line](0)
        with send, receive:
            tasks.start_soon(slices.run, receive)
            await anyio.wait_all_tasks_blocked()
            slices.stop()
            assert await slices.take() == []


@on_both_loops
async def test_cancel_ends_the_jobs_that_were_sent_and_each_is_answered() -> None:
    taken: dict[int, str] = {}
    async with fake_pipe(sleep) as (client, server), anyio.create_task_group() as tasks:
        slices = client.slices(in_flight=30)
        tasks.start_soon(slices.run, lines(itertools.chain([1], itertools.repeat(1000))))
        tasks.start_soon(take_all, slices, taken)
        await anyio.sleep(5)
        slices.cancel()

    assert anyio.current_time() == pytest.approx(5)
    assert taken.pop(10) == "succeeded"
    assert len(taken) == server.runs.total() - 1
    assert set(taken.values()) == {"cancelled"}
    assert max(server.runs.values()) == 1
    assert server.open == 0
    # Behind jobs that do not end, all lines are in the server nevertheless.
    for sent, window in zip(server.requests, server.windows, strict=True):
        cancels = sum("cancel" in line for line in sent)
        assert window == (len(sent) - cancels if cancels else None)
    assert cancels


@on_both_loops
async def test_cancel_lasts_until_the_server_has_heard_of_it() -> None:
    taken: dict[int, str] = {}
    troubles = [Fate(), *[Fate(reply=httpx.ConnectError("refused"))] * 4]
    async with (
        fake_pipe(sleep, fates=troubles) as (client, _),
        anyio.create_task_group() as tasks,
    ):
        slices = client.slices(in_flight=4)
        tasks.start_soon(slices.run, lines(iter([1000, 1000])))
        tasks.start_soon(take_all, slices, taken)
        await anyio.sleep(1)
        slices.cancel()
        await anyio.wait_all_tasks_blocked()
        assert slices.failing_since == pytest.approx(1)

    assert taken == {10: "cancelled", 20: "cancelled"}
    assert slices.failing_since is None


@on_both_loops
async def test_a_server_with_too_many_pipes_is_no_reason_to_give_up_while_others_get_on() -> None:
    async def job(payload: object) -> object:
        await anyio.sleep(1)
        return payload

    def fates() -> Iterator[Fate]:
        while True:
            has_first = any(line["payload"] == 1 for line in server.requests[-1])
            busy = has_first and anyio.current_time() < 60
            yield Fate(reply=problem(503, Retry_After="5")) if busy else Fate()

    async with (
        fake_pipe(job, fates=fates(), retry_for=20) as (client, server),
        client.map("job", range(1, 200), in_flight=4) as results,
    ):
        found = [result.value() async for result in results]

    assert sorted(found) == list(range(1, 200))
    assert found.index(1) > 100


@on_both_loops
async def test_a_line_without_room_is_sent_again() -> None:
    full = b'\n{"line":1,"outcome":"refused","retry_after":3,"error":{"type":"QueueFull"}}\n'
    reply = httpx.Response(200, content=full + b'{"end":"input"}\n')
    async with (
        fake_pipe(sleep, fates=[Fate(reply=reply)]) as (client, _),
        client.map("sleep", [0]) as results,
    ):
        assert [result.value() async for result in results] == [0]


@on_both_loops
async def test_a_refused_line_is_a_result() -> None:
    refused = b'\n{"line":1,"outcome":"refused","error":{"type":"KeyReused","message":"no"}}\n'
    reply = httpx.Response(200, content=refused + b'{"end":"input"}\n')
    async with (
        fake_pipe(sleep, fates=[Fate(reply=reply)]) as (client, server),
        client.map("sleep", [0]) as results,
    ):
        (result,) = [result async for result in results]

    assert result.outcome == "refused"
    assert len(server.requests) == 1
