"""`POST /jobs/stream`: lines are admitted as room appears, and what was said is true."""

import os
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.support import MAX_BODY_BYTES, SUBMISSION, Api, accept, assert_problem
from tests.asgi import Answer, Client, OpenRequest
from tests.support import (
    SUCCEEDED,
    AccessControl,
    TokenTable,
    counting_turns,
    make_parts,
    start_workers,
    take,
)
from trio_jobs import Ending, Job
from trio_jobs.access_changes import AccessChanges
from trio_jobs.api.app import create_app
from trio_jobs.api.ndjson import Lines
from trio_jobs.server.access_middleware import AccessMiddleware
from trio_jobs.testing.steps import At

LINE = SUBMISSION + b"\n"


def line(n: int) -> bytes:
    return b'{"type":"email","payload":%d}\n' % n


def payloads(api: Api) -> list[int]:
    return [int(job.payload) for job in api.parts.store.page_nowait(limit=1_000_000)]


def assert_accepted(answer: Answer, number: int) -> None:
    assert (answer.status, answer.json()) == (201, {"accepted": number})


@pytest.mark.parametrize("size", [1, 2, 3, 7, 29, 30, 31, 64, 10_000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\r\n \t\n", b"\r"])
async def test_lines_may_be_cut_anywhere(size: int, end: bytes) -> None:
    api = Api()
    text = b"".join(line(n) for n in range(50)).removesuffix(b"\n") + end
    pieces = [text[start : start + size] for start in range(0, len(text), size)]

    assert_accepted(await api.client.post("/jobs/stream", pieces), 50)
    assert payloads(api) == [*range(50)]


@pytest.mark.parametrize(
    ("body", "number"),
    [
        (b"", 0),
        (b"\n", 0),
        (b"\r\n \n", 0),
        ([b"", b"", b""], 0),
        ([b"", LINE, b"", b"", LINE], 2),  # an empty piece is not the end
        (b"\n\r\n" + LINE.replace(b"\n", b"\r\n") + b"\n \n\t" + LINE + b"\n\n" + LINE, 3),
    ],
)
async def test_empty_lines_and_pieces_are_ignored(body: bytes | list[bytes], number: int) -> None:
    assert_accepted(await Api().client.post("/jobs/stream", body), number)


@given(st.lists(st.binary(), max_size=20))
def test_lines_are_those_of_the_whole_text_however_it_is_cut(pieces: list[bytes]) -> None:
    lines = Lines()
    found = [text for piece in pieces for text in lines.feed(piece)]

    assert [*found, lines.last()] == b"".join(pieces).split(b"\n")


async def test_lines_are_in_before_the_next_ones_are_sent() -> None:
    api = Api()

    async with api.client.open("POST", "/jobs/stream") as exchange:
        for n in range(3):
            await exchange.send(line(n))
            await wait_all_tasks_blocked()
            assert payloads(api) == [*range(n + 1)]
        await exchange.send(b"", last=True)
        assert_accepted(await exchange.answer(), 3)


async def test_stream_of_a_token_that_is_taken_away_takes_no_further_line() -> None:
    access_control = AccessControl(tokens=TokenTable.of(["submit a-token", "submit b-token"]))
    api = Api()
    context = replace(api.context, access_changes=AccessChanges(lambda: access_control.tokens))
    client = Client(AccessMiddleware(create_app(context), access_control))

    def opened(token: str) -> AbstractAsyncContextManager[OpenRequest]:
        return client.open("POST", "/jobs/stream", headers={"Authorization": f"Bearer {token}"})

    async with opened("a-token") as taken, opened("b-token") as left:
        for n, exchange in enumerate((taken, left)):
            await exchange.send(line(n))
        await wait_all_tasks_blocked()
        access_control.tokens = TokenTable.of(["submit b-token"])
        for n, exchange in enumerate((taken, left), 2):
            await exchange.send(line(n))
        await left.send(b"", last=True)
        answer = await taken.answer()
        assert_accepted(await left.answer(), 2)

    problem = assert_problem(answer, 401)
    assert (problem["accepted"], answer.headers["connection"]) == (1, "close")
    assert payloads(api) == [0, 1, 3]


async def test_while_the_buffer_is_full_no_more_than_a_little_of_the_body_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trio_jobs.api.body_stream._MAX_AHEAD", 3 * len(line(0)))
    api = Api(parts=make_parts(buffer_size=3))
    sent = 0

    async with (
        api.client.open("POST", "/jobs/stream") as exchange,
        trio.open_nursery() as nursery,
    ):

        @nursery.start_soon
        async def send() -> None:
            nonlocal sent
            for n in range(20):
                await exchange.send(line(n))
                sent += 1
            await exchange.send(b"", last=True)

        for taken in range(20):
            await wait_all_tasks_blocked()
            # Two are in the buffer, whose last place is for others. At the most four wait and four
            # are read ahead: those are just longer than they may be.
            assert sent == 20 or taken + 2 < sent <= taken + 2 + 4 + 4
            assert len(api.parts.store) == min(taken + 2, 20)
            take(api.parts)

        assert_accepted(await exchange.answer(), 20)
    assert payloads(api) == [*range(20)]


async def test_stream_behind_a_batch_that_fills_the_buffer_gets_the_first_slot() -> None:
    api = Api(parts=make_parts(buffer_size=3))
    batch = b"[" + b",".join([line(n).strip() for n in range(3)]) + b"]"
    assert (await api.client.post("/jobs/batch", batch)).status == 201

    async with api.client.open("POST", "/jobs/stream") as exchange:
        await exchange.send(line(3), last=True)
        await wait_all_tasks_blocked()
        take(api.parts)
        assert_accepted(await exchange.answer(), 1)


@pytest.mark.parametrize("bad", [0, 1, 5, 9])
@pytest.mark.parametrize("size", [20, 1000])
async def test_a_bad_line_stops_it_and_those_before_it_stay(bad: int, size: int) -> None:
    api = Api({"email": accept})
    lines = [line(n) for n in range(10)]
    lines[bad] = b'{"type":"emial"}\n'
    text = b"\n".join(lines)  # each is followed by an empty line
    pieces = [text[start : start + size] for start in range(0, len(text), size)]

    problem = assert_problem(await api.client.post("/jobs/stream", pieces), 400)

    assert problem["accepted"] == bad
    assert problem["line"] == 2 * bad + 1
    assert problem["types"] == ["email"]
    assert payloads(api) == [*range(bad)]


async def test_a_bad_line_behind_a_full_buffer_waits_for_those_before_it() -> None:
    api = Api(parts=make_parts(buffer_size=2))

    async with api.client.open("POST", "/jobs/stream") as exchange:
        await exchange.send(line(0) + line(1) + b"x\n")
        await wait_all_tasks_blocked()
        take(api.parts)
        problem = assert_problem(await exchange.answer(), 400)

    assert (problem["accepted"], problem["line"]) == (2, 3)


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"a"} {"type":"b"}\n',
        b'{"type":\n"a"}\n',
        b'{"type":"a"},\n{"type":"b"}\n',
        b'[{"type":"a"}]\n',
        b'{"type":"a"}\r{"type":"b"}\n',
        b'{"type":"a"}\x00\n',
        b'\xef\xbb\xbf{"type":"a"}\n',
        b'{"type":"a"',
        b'{"type":"a","payload":"\\\n"}\n',
        b"\x0b\n",
        b"\xc2\x85\n",
    ],
)
async def test_a_line_is_one_submission_and_nothing_else(text: bytes) -> None:
    api = Api()

    problem = assert_problem(await api.client.post("/jobs/stream", LINE + text), 400)

    assert (problem["accepted"], problem["line"]) == (1, 2)


def long_line(length: int) -> bytes:
    head, tail = b'{"type":"email","payload":"', b'"}'
    return head + b"x" * (length - len(head) - len(tail)) + tail


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
async def test_a_line_at_the_limit_is_taken_and_a_longer_one_is_413(size: int, end: bytes) -> None:
    for extra in (0, 1):
        api = Api()
        text = LINE + long_line(MAX_BODY_BYTES + extra) + end
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        answer = await api.client.post("/jobs/stream", pieces)
        if extra:
            problem = assert_problem(answer, 413)
            assert (problem["accepted"], problem["line"]) == (1, 2)
            assert problem["limit"] == MAX_BODY_BYTES
            assert len(api.parts.store) == 1
        else:
            assert_accepted(answer, 2)


async def test_a_line_without_an_end_is_not_read_beyond_the_limit() -> None:
    api = Api()

    async with api.client.open("POST", "/jobs/stream") as exchange:
        await exchange.send(LINE + b"x" * (MAX_BODY_BYTES + 2))
        problem = assert_problem(await exchange.answer(), 413)

    assert (problem["accepted"], problem["line"]) == (1, 2)


async def test_a_client_that_sends_nothing_while_the_server_reads_is_cut_off(
    autojump_clock: MockClock,
) -> None:
    api = Api()

    async with api.client.open("POST", "/jobs/stream") as exchange:
        await exchange.send(LINE)
        for _ in range(5):
            await trio.sleep(29)
            await exchange.send(b" ")
        answer = await exchange.answer()

    assert assert_problem(answer, 408)["accepted"] == 1
    assert answer.headers["connection"] == "close"
    assert trio.current_time() == 5 * 29 + 30


async def test_time_that_the_server_does_not_read_does_not_count(
    autojump_clock: MockClock,
) -> None:
    api = Api(parts=make_parts(buffer_size=2))

    async with api.client.open("POST", "/jobs/stream") as exchange:
        await exchange.send(LINE * 2)
        await trio.sleep(3600)
        take(api.parts)
        await exchange.send(b"", last=True)
        assert_accepted(await exchange.answer(), 2)


async def end_by_shutdown(api: Api, exchange: OpenRequest) -> Answer:
    await wait_all_tasks_blocked()
    api.parts.admission.close()
    answer = await exchange.answer()
    assert answer.headers["retry-after"] == "7"
    assert answer.headers["connection"] == "close"
    return answer


@pytest.mark.parametrize(
    ("buffer_size", "sent"),
    [
        pytest.param(100, LINE * 3 + b'{"type', id="for its client"),
        pytest.param(4, LINE * 10, id="for room"),
    ],
)
async def test_a_shutdown_ends_a_stream_that_waits(buffer_size: int, sent: bytes) -> None:
    api = Api(parts=make_parts(buffer_size=buffer_size))

    async with api.client.open("POST", "/jobs/stream") as exchange:
        await exchange.send(sent)
        answer = await end_by_shutdown(api, exchange)

    assert assert_problem(answer, 503)["accepted"] == len(api.parts.store) == 3


async def test_a_shutdown_ends_a_stream_that_waits_behind_another_and_refuses_a_new_one() -> None:
    api = Api(parts=make_parts(buffer_size=2))

    async with (
        api.client.open("POST", "/jobs/stream") as first,
        api.client.open("POST", "/jobs/stream") as second,
    ):
        await first.send(LINE * 10)
        await wait_all_tasks_blocked()
        await second.send(LINE * 10)
        answer = await end_by_shutdown(api, second)

    assert assert_problem(answer, 503)["accepted"] == 0
    answer = await api.client.post("/jobs/stream", LINE)
    assert assert_problem(answer, 503)["accepted"] == 0


async def test_accepted_is_true_whenever_the_shutdown_comes() -> None:
    step, steps = 0, 1
    while step < steps:
        step += 1
        api = Api(parts=make_parts(buffer_size=3))

        async with trio.open_nursery() as nursery:
            start_workers(api.parts, nursery, succeed, number=1)
            with At(step, api.parts.admission.close) as at:
                answer = await api.client.post("/jobs/stream", [LINE * 10, LINE * 9])
            api.parts.admission.close()

        steps = at.steps
        accepted = answer.json()["accepted"]
        assert accepted == len(api.parts.store), f"step {step}"
        assert api.parts.store.statistics().completed == accepted, f"step {step}"
        # All may be in when it shuts down; it does not know then that they are all.
        assert (answer.status, accepted) == (201, 19) or answer.status == 503, f"step {step}"
    assert step > 50


async def succeed(job: Job) -> Ending:
    await trio.lowlevel.checkpoint()
    return SUCCEEDED


@pytest.mark.parametrize("buffer_size", [3, 100])
async def test_what_a_client_that_hangs_up_has_sent_stays(
    buffer_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api(parts=make_parts(buffer_size=buffer_size))

    async with api.client.open("POST", "/jobs/stream") as exchange:
        await exchange.send(line(0) + line(1) + b'{"type"')
        await wait_all_tasks_blocked()
        exchange.hang_up()

    assert payloads(api) == [0, 1]
    assert not caplog.records


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("behind", [True, False])
async def test_a_client_that_leaves_while_lines_wait_for_room_ends_its_stream(
    *, complete: bool, behind: bool
) -> None:
    api = Api(parts=make_parts(buffer_size=2))
    async with api.client.open("POST", "/jobs/stream") as other:
        if behind:
            await other.send(LINE * 2)
            await wait_all_tasks_blocked()
        async with api.client.open("POST", "/jobs/stream") as exchange:
            await exchange.send(line(0) + line(1), last=complete)
            await wait_all_tasks_blocked()

            exchange.hang_up()
            with trio.fail_after(60):
                await wait_all_tasks_blocked()
            assert api.parts.admission.buffered == 1

            take(api.parts)
            await wait_all_tasks_blocked()
            assert api.parts.admission.buffered == (1 if behind else 0)


@pytest.mark.parametrize(("buffer_size", "accepted"), [(2, 1), (100, 3)])
@pytest.mark.parametrize("complete", [True, False])
async def test_a_client_that_only_stops_sending_learns_what_was_accepted(
    buffer_size: int, accepted: int, *, complete: bool
) -> None:
    api = Api(parts=make_parts(buffer_size=buffer_size))

    async with api.client.open("POST", "/jobs/stream") as exchange:
        await exchange.send(LINE * 3, last=complete and buffer_size == 2)
        await wait_all_tasks_blocked()
        exchange.stop_sending()
        problem = assert_problem(await exchange.answer(), 400)

    assert problem["accepted"] == len(api.parts.store) == accepted


async def test_other_tasks_run_while_a_large_piece_is_checked() -> None:
    api = Api(parts=make_parts(buffer_size=100_000))

    async with counting_turns() as turns:
        assert_accepted(await api.client.post("/jobs/stream", LINE * 10_000), 10_000)

    assert len(turns) >= 10


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.proof
async def test_memory_does_not_grow_with_the_length_of_the_stream() -> None:
    # CI sends more through the real command (.ci/many_lines.py).
    total = 40_000
    piece = LINE * 1000
    api = Api(parts=make_parts(buffer_size=100, keep_completed=1000))

    async with trio.open_nursery() as nursery:
        start_workers(api.parts, nursery, succeed, number=10)
        async with api.client.open("POST", "/jobs/stream") as exchange:
            for _ in range(20):
                await exchange.send(piece)
            before = resident_bytes()
            for _ in range(total // 1000 - 20):
                await exchange.send(piece)
            growth = resident_bytes() - before
            await exchange.send(b"", last=True)
            assert_accepted(await exchange.answer(), total)
        api.parts.admission.close()

    assert growth < 4_000_000
    assert len(api.parts.store) == 1000
