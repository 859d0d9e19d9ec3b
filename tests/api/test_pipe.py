"""`POST /jobs/pipe`: each line gets its answer as its job ends, and what was said is true."""

from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.piping import (
    PIPE,
    assert_nothing_is_left,
    line,
    lines_of,
    next_line,
    outcomes,
    rest,
    running,
)
from tests.api.support import MAX_BODY_BYTES, Api, FakeMetrics, accept, assert_problem
from tests.asgi import Client
from tests.support import (
    AccessControl,
    TokenTable,
    make_parts,
    start_workers,
    take,
)
from trio_jobs import Handler, JobContext, Outcome, Retry, RetryPolicy
from trio_jobs.access_changes import AccessChanges
from trio_jobs.api.app import create_app
from trio_jobs.api.pipe_route import parse_options
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.problem_details import Problem
from trio_jobs.server.access_middleware import AccessMiddleware

CANCEL = b'{"cancel": true}\n'


async def forever(_: object) -> None:
    await trio.sleep_forever()


# What the lines say.


async def test_each_line_gets_its_answer() -> None:
    async def fail(payload: object) -> object:
        raise ValueError(f"no {payload}")

    async def double(payload: int) -> int:
        return 2 * payload

    async with running({"email": double, "bad": fail}) as api:
        body = line(1) + b"\n" + line(2, "bad", key="k-2") + b'{"type":"x"}\n' + line(3)
        *answers, end = lines_of(await api.client.post(PIPE, [body]))

    by_line = {answer["line"]: answer for answer in answers}
    ids = [by_line[number].pop("id") for number in (1, 3, 5)]
    assert len(set(ids)) == 3
    assert by_line[1] == {"line": 1, "outcome": "succeeded", "result": 2}
    assert by_line[3] == {
        "line": 3,
        "key": "k-2",
        "outcome": "failed",
        "error": {"type": "ValueError", "message": "no 2"},
    }
    assert by_line[4]["outcome"] == "refused"
    assert by_line[4]["error"]["type"] == "Refused"
    assert "'x'" in by_line[4]["error"]["message"]
    assert by_line[5]["result"] == 6
    assert end == {"end": "input", "lines": 5, "succeeded": 2, "failed": 1, "refused": 1}


async def test_answer_comes_while_the_client_still_sends() -> None:
    async with running() as api, api.client.open("POST", PIPE) as exchange:
        assert await exchange.head() == 200
        assert await anext(exchange.pieces()) == b"\n"
        for number in range(1, 4):
            await exchange.send(line(number))
            answer = await next_line(exchange)
            assert (answer["line"], answer["result"]) == (number, number)
        await exchange.send(b"", last=True)
        assert await next_line(exchange) == {"end": "input", "lines": 3, "succeeded": 3}


async def test_answers_come_in_the_order_of_the_ends(autojump_clock: MockClock) -> None:
    async def work(seconds: float) -> None:
        await trio.sleep(seconds)

    async with running({"email": work}, workers=3) as api:
        lines = lines_of(await api.client.post(PIPE, [line(3), line(1), line(2)]))

    assert [each["line"] for each in lines[:-1]] == [2, 3, 1]
    assert trio.current_time() == 3


@pytest.mark.parametrize("size", [1, 2, 7, 30, 31, 10_000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\r\n \t\n"])
async def test_lines_may_be_cut_anywhere(size: int, end: bytes) -> None:
    text = b"".join(line(n) for n in range(20)).removesuffix(b"\n") + end
    pieces = [text[start : start + size] for start in range(0, len(text), size)]

    async with running() as api:
        lines = lines_of(await api.client.post(PIPE, pieces))

    assert {each["line"]: each["result"] for each in lines[:-1]} == {n + 1: n for n in range(20)}
    assert lines[-1]["lines"] == 20 + max(end.count(b"\n") - 1, 0)


@pytest.mark.parametrize("body", [b"", b"\n", b"\r\n \n\n", [b"", b"", b""]])
async def test_without_a_job_only_the_end_comes(body: bytes | list[bytes]) -> None:
    async with running() as api:
        [end] = lines_of(await api.client.post(PIPE, body))

    assert end["end"] == "input"
    assert end.keys() == {"end", "lines"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "the submission is not valid JSON"),
        (b'{"cancel": false}', "unknown field"),
        (b'{"cancel": true, "type": "email"}', "unknown field"),
        (b'{"type": "email", "payload": 1, "key": ""}', "1 to 255 visible ASCII"),
        (b'{"type": "email", "delay": -1}', "delay must be"),
        (b'{"payload": 1}', "type"),
        (b'{"type": "email", "type": "email"}', "more than once"),
        (b"\xff", ""),
    ],
)
async def test_bad_line_is_refused_and_the_pipe_goes_on(text: bytes, message: str) -> None:
    async with running() as api:
        lines = lines_of(await api.client.post(PIPE, [line(1) + text + b"\n" + line(3)]))

    assert outcomes(lines) == {1: "succeeded", 2: "refused", 3: "succeeded"}
    [refused] = [each for each in lines if each.get("outcome") == "refused"]
    assert refused["error"]["type"] == "Refused"
    assert message in refused["error"]["message"]
    assert "id" not in refused


async def test_refused_line_has_its_key() -> None:
    text = b'{"type":"email","payload":1,"key":"k","delay":-1}\n{"type":"email","key":" "}\n'
    async with running() as api:
        lines = lines_of(await api.client.post(PIPE, [text]))

    assert [each.get("key") for each in lines[:-1]] == ["k", None]


async def test_type_comes_from_the_query_unless_the_line_has_one() -> None:
    async def other(payload: object) -> object:
        return ["other", payload]

    body = b'{"payload":1}\n' + line(2, "other") + b'{"payload":3,"payload":4}\n{"key":"a"}\n'
    async with running({"email": accept, "other": other}) as api:
        lines = lines_of(await api.client.post(f"{PIPE}?type=email", [body]))

    results = {each["line"]: each.get("result") for each in lines[:-1]}
    assert results == {1: 1, 2: ["other", 2], 3: None, 4: None}
    assert outcomes(lines)[3] == "refused"


async def test_what_a_handler_hides_no_pipe_shows() -> None:
    async def show(payload: object) -> object:
        return {"card": payload, "ok": True}

    handlers = HandlerRegistry({"email": Handler.of(show, hide="card")})
    api = Api(parts=make_parts(handlers))
    async with api.parts.pool.places.open(), trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(api.parts.workers.run, api.parts.receive.clone())
        api.parts.receive.close()
        [answer, _] = lines_of(await api.client.post(PIPE, line("4711")))
        api.parts.admission.close()

    assert answer["result"] == {"card": "•••", "ok": True}


# Keys.


async def test_known_key_gets_the_answer_of_the_job_that_is_there() -> None:
    async with running() as api:
        first = lines_of(await api.client.post(PIPE, [line(1, key="a") * 2]))
        second = lines_of(await api.client.post(PIPE, [line(1, key="a") + line(2, key="a")]))

    assert [(each.get("replayed"), each["result"]) for each in first[:-1]] == [(None, 1), (True, 1)]
    assert first[0]["id"] == first[1]["id"] == second[0]["id"]
    answers = {each["line"]: each for each in second[:-1]}
    assert answers[1]["replayed"] is True
    assert answers[2] == {
        "line": 2,
        "key": "a",
        "outcome": "refused",
        "error": {
            "type": "KeyReused",
            "message": "the key 'a' was used with another submission",
        },
    }
    assert len(api.parts.store) == 1


async def test_two_pipes_with_one_key_both_get_the_answer() -> None:
    api = Api()

    async with api.client.open("POST", PIPE) as one, api.client.open("POST", PIPE) as other:
        for exchange in (one, other):
            await exchange.head()
            await exchange.send(line(1, key="a") * 2, last=True)
            await wait_all_tasks_blocked()
        assert len(api.parts.store) == 1
        take(api.parts)
        answers = [await rest(exchange) for exchange in (one, other)]

    assert [outcomes(each) for each in answers] == [{1: "succeeded", 2: "succeeded"}] * 2
    replayed = [[line.get("replayed", False) for line in each[:-1]] for each in answers]
    assert replayed == [[False, True], [True, True]]
    assert_nothing_is_left(api)


async def test_job_that_ends_while_lines_before_a_refused_one_wait_is_answered() -> None:
    go_on = trio.Event()

    async def wait(payload: object) -> object:
        await go_on.wait()
        return payload

    async with (
        running({"default": wait}, workers=1, buffer_size=1) as api,
        api.client.open("POST", PIPE) as exchange,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(api.client.post, PIPE, line(1, key="a") + line(2))
            await wait_all_tasks_blocked()
            await exchange.head()
            # The first line waits for room, which comes when the job of the second one ends.
            await exchange.send(line(3) + line(1, key="a") + line(2, key="a"))
            await wait_all_tasks_blocked()
            go_on.set()
        await wait_all_tasks_blocked()
        assert_nothing_is_left(api)
        await exchange.send(b"", last=True)
        lines = await rest(exchange)

    assert outcomes(lines) == {1: "succeeded", 2: "succeeded", 3: "refused"}


async def test_key_whose_job_is_not_kept_makes_a_new_job() -> None:
    async with running(keep_completed=0) as api:
        lines = lines_of(await api.client.post(PIPE, [line(1, key="a"), line(1, key="a")] * 5))

    assert [each["outcome"] for each in lines[:-1]] == ["succeeded"] * 10


# Flow control.


def admitted(api: Api) -> int:
    """How many jobs have come in."""
    now = api.parts.store.statistics()
    return now.pending + now.processing + now.completed + sum(now.dropped.values())


async def test_client_that_reads_nothing_gets_no_more_than_a_window_of_jobs_in() -> None:
    async with running() as api, api.client.open("POST", f"{PIPE}?window=3") as exchange:
        await exchange.head()
        await anext(exchange.pieces())
        await exchange.send(b"".join(line(n) for n in range(20)), last=True)
        await wait_all_tasks_blocked()
        assert admitted(api) == 3

        first = await anext(exchange.pieces())
        await wait_all_tasks_blocked()
        assert admitted(api) == 3 + first.count(b'"outcome"')
        lines = await rest(exchange)
    assert len(lines) == 20 - first.count(b'"outcome"') + 1


@pytest.mark.parametrize(("workers", "window"), [(1, 16), (9, 18), (2_000, 1_000)])
async def test_window_without_a_number_is_two_lines_a_worker(workers: int, window: int) -> None:
    api = Api(parts=make_parts(workers=workers, buffer_size=10_000))

    async with api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        await anext(exchange.pieces())
        await exchange.send(line(1) * 1_100)
        await wait_all_tasks_blocked()
        assert admitted(api) == window


async def test_refused_lines_of_a_client_that_reads_nothing_take_their_place_in_the_window() -> (
    None
):
    async with running() as api, api.client.open("POST", f"{PIPE}?window=3") as exchange:
        await exchange.head()
        await anext(exchange.pieces())
        await exchange.send(b"{}\n" * 3 + line(1) * 3)
        await wait_all_tasks_blocked()
        assert admitted(api) == 0
        await anext(exchange.pieces())
        await wait_all_tasks_blocked()
        assert admitted(api) > 0


async def test_large_answers_that_nobody_reads_are_bounded_by_their_bytes() -> None:
    async def large(_: object) -> str:
        return "x" * 100_000

    async with (
        running({"email": large}, buffer_size=1_000) as api,
        api.client.open("POST", f"{PIPE}?window=1000") as exchange,
    ):
        await exchange.head()
        await anext(exchange.pieces())
        await exchange.send(line(0))  # its answer tells how large answers are
        await wait_all_tasks_blocked()
        await anext(exchange.pieces())
        await exchange.send(line(0) * 40, last=True)
        await wait_all_tasks_blocked()
        assert admitted(api) == 1 + 16  # as many as there may be in any case
        lines = await rest(exchange)
    assert lines[-1]["succeeded"] == 41


async def test_results_are_not_lost_to_retention() -> None:
    async with running(keep_completed=0) as api:
        body = b"".join(line(n) for n in range(300))
        lines = lines_of(await api.client.post(PIPE, [body]))

    assert {each["result"] for each in lines[:-1]} == {*range(300)}
    assert len(api.parts.store) == 0


async def test_lines_wait_for_room_in_turn_with_streams() -> None:
    api = Api(parts=make_parts(buffer_size=2))

    async with api.client.open("POST", "/jobs/stream") as stream:
        await stream.send(line(1) * 3)
        await wait_all_tasks_blocked()
        async with api.client.open("POST", PIPE) as exchange:
            await exchange.head()
            await exchange.send(line(2) * 3)
            await wait_all_tasks_blocked()
            waiting = [take(api.parts).payload for _ in range(6) if not await blocked()]
    assert waiting.count(b"2") >= 2


async def blocked() -> bool:
    await wait_all_tasks_blocked()
    return False


# A body with a length.


async def test_body_with_a_length_is_read_whole_before_a_line_is_taken() -> None:
    async with running() as api:
        half = line(1) * 3
        headers = {"Content-Length": str(2 * len(half))}
        async with api.client.open("POST", PIPE, headers=headers) as exchange:
            await exchange.head()
            await exchange.send(half)
            await wait_all_tasks_blocked()
            assert admitted(api) == 0
            await exchange.send(half, last=True)
            lines = await rest(exchange)

    assert lines[-1] == {"end": "input", "lines": 6, "succeeded": 6}


async def test_body_that_is_longer_than_a_slice_is_taken_as_it_comes() -> None:
    async with running() as api:
        headers = {"Content-Length": str(MAX_BODY_BYTES + 1)}
        async with api.client.open("POST", PIPE, headers=headers) as exchange:
            await exchange.head()
            await exchange.send(line(1))
            assert (await next_line(exchange))["outcome"] == "succeeded"


# Time.


async def test_idle_pipe_ends_and_says_so(autojump_clock: MockClock) -> None:
    async with running() as api, api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        await trio.sleep(20)
        await exchange.send(b"\n")
        await trio.sleep(20)
        await exchange.send(line(1))
        lines = await rest(exchange)

    assert outcomes(lines) == {2: "succeeded"}
    assert lines[-1]["end"] == "idle"
    assert trio.current_time() == 70


async def test_pipe_is_not_idle_while_a_job_runs(autojump_clock: MockClock) -> None:
    async def work(_: object) -> None:
        await trio.sleep(100)

    async with running({"email": work}) as api, api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        await exchange.send(line(1))
        assert (await next_line(exchange))["outcome"] == "succeeded"
        await exchange.send(line(2))
        assert (await next_line(exchange))["line"] == 2
        assert trio.current_time() == 200
        assert (await next_line(exchange))["end"] == "idle"

    assert 230 <= trio.current_time() <= 260


async def test_blank_line_comes_after_each_15_seconds_without_an_answer(
    autojump_clock: MockClock,
) -> None:
    async def work(_: object) -> None:
        await trio.sleep(40)

    async with running({"email": work}) as api, api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        await exchange.send(line(1), last=True)
        came = [(trio.current_time(), bool(piece.strip())) async for piece in exchange.pieces()]

    assert came == [(0, False), (15, False), (30, False), (40, True), (40, True)]


async def test_delayed_and_retried_jobs_answer_when_they_end(autojump_clock: MockClock) -> None:
    async def work(context: JobContext, payload: str) -> str:
        if payload == "again" and context.attempt < 3:
            raise Retry(10)
        return f"{payload} {context.attempt}"

    policy = RetryPolicy(attempts=3)
    async with running({"email": Handler.of(work, retry=policy)}) as api:
        lines = lines_of(await api.client.post(PIPE, [line("later", delay=60), line("again")]))

    assert [(each["line"], each["result"]) for each in lines[:-1]] == [
        (2, "again 3"),
        (1, "later 1"),
    ]
    assert trio.current_time() == 60


async def test_line_that_may_not_wait_is_refused_with_a_time(autojump_clock: MockClock) -> None:
    async with running(max_waiting=1) as api:
        metrics = FakeMetrics()
        client = Client(create_app(replace(api.context, metrics=metrics)))
        body = line(1, delay=5) + line(2, delay=5) + line(3) + line(4, delay=5)
        lines = lines_of(await client.post(PIPE, [body]))

    assert outcomes(lines) == {1: "succeeded", 2: "refused", 3: "succeeded", 4: "refused"}
    refused = [each for each in lines if each.get("outcome") == "refused"]
    assert {each["error"]["type"] for each in refused} == {"QueueFull"}
    assert all(each["retry_after"] >= 1 for each in refused)
    assert metrics.refusals == {"waiting_full": 2}


# Ends.


async def test_too_long_line_ends_the_pipe_after_the_lines_before_it() -> None:
    async with running() as api:
        for body in (line(1) + line("x" * MAX_BODY_BYTES) + line(3), line(1) + b"x" * 20_000):
            lines = lines_of(await api.client.post(PIPE, [body]))
            assert outcomes(lines) == {1: "succeeded"}
            assert lines[-1]["end"] == "too long"
            assert (lines[-1]["line"], lines[-1]["limit"]) == (2, MAX_BODY_BYTES)


async def test_longest_line_is_taken() -> None:
    async with running() as api:
        text = line("x" * (MAX_BODY_BYTES - len(line("")) + 1))
        assert len(text) == MAX_BODY_BYTES + 1  # with its end
        lines = lines_of(await api.client.post(PIPE, [text]))

    assert outcomes(lines) == {1: "succeeded"}


async def test_shutdown_answers_all_accepted_lines(autojump_clock: MockClock) -> None:
    async def work(_: object) -> None:
        await trio.sleep(1)

    async with (
        running({"email": work}, buffer_size=4) as api,
        api.client.open("POST", PIPE) as exchange,
    ):
        await exchange.head()
        await exchange.send(line(1) * 10)
        await wait_all_tasks_blocked()
        accepted = admitted(api)
        api.parts.admission.close()
        lines = await rest(exchange)

    assert outcomes(lines) == dict.fromkeys(range(1, accepted + 1), "succeeded")
    end = lines[-1]
    assert (end["end"], end["retry_after"], end["succeeded"]) == ("shutting down", 7, accepted)


async def test_lines_whose_jobs_have_not_ended_when_the_pool_ends_say_so() -> None:
    api = Api({"email": forever})

    async with api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        async with trio.open_nursery() as nursery:
            start_workers(api.parts, nursery)
            await exchange.send(line(1) + line(2, key="a") * 2, last=True)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        lines = await rest(exchange)

    jobs = {job.key is None: job.id for job in api.parts.store.page_nowait(limit=5)}
    by_line = {each["line"]: each for each in lines[:-1]}
    assert by_line == {
        1: {"line": 1, "id": jobs[True]},
        2: {"line": 2, "key": "a", "id": jobs[False]},
        3: {"line": 3, "key": "a", "id": jobs[False], "replayed": True},
    }
    assert lines[-1] == {"end": "input", "lines": 3, "not_completed": 3}
    assert_nothing_is_left(api)


async def test_pool_that_ends_ends_the_input_too() -> None:
    api = Api({"email": forever})

    async with api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        async with trio.open_nursery() as nursery:
            start_workers(api.parts, nursery)
            await exchange.send(line(1))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        lines = await rest(exchange)

    assert outcomes(lines) == {1: None}
    assert (lines[-1]["end"], lines[-1]["retry_after"]) == ("shutting down", 7)


async def test_paused_intake_ends_the_input() -> None:
    async with running(buffer_size=1) as api, api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        await exchange.send(line(1))
        await next_line(exchange)
        api.parts.admission.intake.pause()
        lines = await rest(exchange)

    assert lines == [{"end": "paused", "lines": 1, "succeeded": 1, "retry_after": 30}]


async def test_client_that_loses_its_access_learns_no_more_and_its_jobs_go_on() -> None:
    control = AccessControl(tokens=TokenTable.of(["submit a-token", "submit b-token"]))
    changes = AccessChanges(lambda: control.tokens)
    api = Api()
    client = Client(
        AccessMiddleware(create_app(replace(api.context, access_changes=changes)), control)
    )
    headers = {"Authorization": "Bearer a-token"}

    async with client.open("POST", PIPE, headers=headers) as exchange:
        await exchange.head()
        await exchange.send(line(1) + line(2, key="k"))
        await wait_all_tasks_blocked()
        control.tokens = TokenTable.of(["submit b-token"])
        changes.note()
        lines = await rest(exchange)

    assert outcomes(lines) == {1: None, 2: None}
    assert lines[-1] == {"end": "access lost", "lines": 2, "not_completed": 2}
    assert_nothing_is_left(api)
    assert not any(job.cancel_requested for job in api.parts.store.page_nowait(limit=5))


async def test_bug_while_lines_are_taken_is_logged_and_the_others_are_answered(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    async with running() as api, api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        await exchange.send(line(1))
        await next_line(exchange)
        monkeypatch.setattr("trio_jobs.api.line_admission.LineAdmission.admit", fail)
        await exchange.send(line(2))
        lines = await rest(exchange)

    assert lines == [{"end": "internal error", "lines": 2, "succeeded": 1}]
    [record] = [each for each in caplog.records if each.message == "pipe_failed"]
    assert record.exc_info
    assert "a bug" in str(record.exc_info[1])


# Cancel.


async def test_cancel_line_cancels_all_that_is_under_way() -> None:
    async with running({"email": forever}) as api, api.client.open("POST", PIPE) as other:
        await other.head()
        await other.send(line(0, key="r"))
        await wait_all_tasks_blocked()
        async with api.client.open("POST", PIPE) as exchange:
            await exchange.head()
            await exchange.send(line(0, key="r") + line(1) * 3 + CANCEL, last=True)
            lines = await rest(exchange)
        assert (await next_line(other))["outcome"] == "cancelled"

    assert outcomes(lines) == dict.fromkeys(range(1, 5), "cancelled")
    assert lines[-1] == {"end": "input", "lines": 5, "cancelled": 4}


async def test_cancel_line_is_seen_although_the_window_is_full() -> None:
    async with (
        running({"email": forever}) as api,
        api.client.open("POST", f"{PIPE}?window=2") as exchange,
    ):
        await exchange.head()
        await exchange.send(line(1) * 2)
        await wait_all_tasks_blocked()
        await exchange.send(CANCEL, last=True)
        lines = await rest(exchange)

    assert outcomes(lines) == {1: "cancelled", 2: "cancelled"}


async def test_cancel_line_behind_each_line_reaches_more_jobs_than_the_window() -> None:
    async with running({"email": forever}) as api:
        keyed = [line(n, key=f"k{n}") for n in range(40)]
        for some in (keyed[:16], keyed[16:32], keyed[32:]):  # the window has room for 16
            async with api.client.open("POST", PIPE) as lost:
                await lost.head()
                await lost.send(b"".join(some))
                await wait_all_tasks_blocked()
                lost.hang_up()
        answer = await api.client.post(PIPE, b"".join(each + CANCEL for each in keyed))

    assert outcomes(lines_of(answer)) == {2 * n + 1: "cancelled" for n in range(40)}
    assert all(each["replayed"] for each in lines_of(answer)[:-1])


async def test_cancel_line_cancels_a_delayed_job(autojump_clock: MockClock) -> None:
    async with running() as api:
        lines = lines_of(await api.client.post(PIPE, [line(1, delay=1_000) + CANCEL]))

    assert outcomes(lines) == {1: "cancelled"}
    assert trio.current_time() < 1_000


# Hang-ups.


async def test_client_that_hangs_up_leaves_jobs_with_a_key_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    ended: list[Outcome | None] = []
    async with running({"email": forever}) as api:
        async with api.client.open("POST", PIPE) as exchange:
            await exchange.head()
            await exchange.send(line(1) + line(2, key="a") + line(3) + b'{"type"')
            await wait_all_tasks_blocked()
            exchange.hang_up()
            await wait_all_tasks_blocked()
        assert_nothing_is_left(api)
        jobs = {int(job.payload): job for job in api.parts.store.page_nowait(limit=5)}
        ended = [jobs[n].outcome for n in (1, 2, 3)]
        await api.parts.pool.cancel(jobs[2].id)

    assert ended[:2] == [Outcome.CANCELLED, None]
    assert jobs[3].outcome is Outcome.CANCELLED or jobs[3].cancel_requested
    [record] = [each for each in caplog.records if each.message == "pipe_broken"]
    assert (record.cancelled, record.go_on) == (2, 1)  # type: ignore[attr-defined]
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_client_that_hangs_up_with_a_full_window_is_noticed() -> None:
    async with (
        running({"email": forever}) as api,
        api.client.open("POST", f"{PIPE}?window=2") as exchange,
    ):
        await exchange.head()
        await exchange.send(line(1) * 10)
        await wait_all_tasks_blocked()
        exchange.hang_up()
        await wait_all_tasks_blocked()
        assert api.parts.store.statistics().processing == 0


async def test_client_that_hangs_up_with_a_full_buffer_is_noticed() -> None:
    api = Api(parts=make_parts(buffer_size=2))

    async with api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        await exchange.send(line(1) * 10)
        await wait_all_tasks_blocked()
        exchange.hang_up()
        await wait_all_tasks_blocked()
        assert_nothing_is_left(api)
    assert all(job.cancel_requested for job in api.parts.store.page_nowait(limit=5))


async def test_client_that_hangs_up_before_the_head_leaves_nothing() -> None:
    api = Api()

    async with api.client.open("POST", PIPE) as exchange:
        exchange.hang_up()
        await wait_all_tasks_blocked()

    assert len(api.parts.store) == 0
    assert_nothing_is_left(api)


async def test_client_that_hangs_up_during_the_drain_loses_its_jobs_without_a_key() -> None:
    async with running({"email": forever}) as api, api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        await exchange.send(line(1) * 2)
        await wait_all_tasks_blocked()
        api.parts.admission.close()
        await wait_all_tasks_blocked()
        exchange.hang_up()
    # The drain has ended: nothing runs for ever.
    assert {job.outcome for job in api.parts.store.page_nowait(limit=5)} == {Outcome.CANCELLED}


async def test_after_the_pools_end_a_hang_up_changes_no_job() -> None:
    api = Api({"email": forever})

    async with api.client.open("POST", PIPE) as exchange:
        await exchange.head()
        await exchange.send(line(1))
        await wait_all_tasks_blocked()
        api.parts.waiters.end()
        exchange.hang_up()

    [job] = api.parts.store.page_nowait(limit=5)
    assert not job.cancel_requested


class FakeServerBody:
    """The body as the server of the command offers it."""

    complete = None

    def __init__(self) -> None:
        self.opened = False

    def lift(self, *, idle_timeout: float) -> None:
        """Nothing: the test's client sends in time."""

    async def open_pipe(self, *, idle_timeout: float) -> None:
        """Note it."""
        self.opened = True

    async def wait_gone(self) -> None:
        """Never."""
        await trio.sleep_forever()


@pytest.mark.parametrize("window", [1, 100])
async def test_client_that_has_sent_all_and_closes_its_sending_side_gets_its_answers(
    window: int, autojump_clock: MockClock
) -> None:
    async def work(_: object) -> None:
        await trio.sleep(10)

    body = FakeServerBody()
    async with running({"email": work}) as api:
        client = Client(create_app(api.context), extensions={"trio_jobs.body": body})
        async with client.open("POST", f"{PIPE}?window={window}") as exchange:
            await exchange.head()
            assert body.opened
            await exchange.send(line(1) * 4, last=True)
            exchange.stop_sending()
            lines = await rest(exchange)

    assert outcomes(lines) == dict.fromkeys(range(1, 5), "succeeded")


async def test_client_that_stops_sending_inside_its_body_is_gone() -> None:
    async with running({"email": forever}) as api:
        client = Client(create_app(api.context), extensions={"trio_jobs.body": FakeServerBody()})
        async with client.open("POST", PIPE) as exchange:
            await exchange.head()
            await exchange.send(line(1))
            await wait_all_tasks_blocked()
            exchange.stop_sending()
            await wait_all_tasks_blocked()
            [job] = api.parts.store.page_nowait(limit=5)
            assert job.outcome is Outcome.CANCELLED


async def test_client_that_is_gone_after_its_body_is_found_out_by_a_blank_line(
    autojump_clock: MockClock,
) -> None:
    async with running({"email": forever}) as api:
        client = Client(create_app(api.context), extensions={"trio_jobs.body": FakeServerBody()})
        async with client.open("POST", PIPE) as exchange:
            await exchange.head()
            await anext(exchange.pieces())
            await exchange.send(line(1), last=True)
            await wait_all_tasks_blocked()
            exchange.hang_up()
            await trio.sleep(15)
            await wait_all_tasks_blocked()
            [job] = api.parts.store.page_nowait(limit=5)
            assert job.outcome is Outcome.CANCELLED


# Before the head.


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("window=0", "window must be an integer from 1 to 1000, got '0'"),
        ("window=1001", "got '1001'"),
        ("window=00001", "got '00001'"),
        ("window=x", "got 'x'"),
        ("window=-1", "got '-1'"),
        ("window=1&window=2", "query parameter 'window' is repeated"),
        ("order=line", "unknown query parameter 'order'; known: type, window"),
        ("type=x", "no handler for type 'x'"),
        ("type=", "type must be a non-empty text"),
    ],
)
async def test_bad_query_is_a_400(query: str, detail: str) -> None:
    problem = assert_problem(await Api({"email": accept}).client.post(f"{PIPE}?{query}"), 400)

    assert detail in problem["detail"]


@given(st.text(max_size=30))
def test_query_is_options_or_a_400(text: str) -> None:
    handlers = HandlerRegistry({"email": Handler.of(accept)})
    try:
        options = parse_options(text.encode(), handlers, usual=20)
    except Problem as problem:
        status = problem.status
    else:
        status = 200
        assert 1 <= options.least_window <= options.window <= 1_000
    assert status in (200, 400)


async def test_key_in_the_header_is_a_400() -> None:
    assert_problem(await Api().client.post(PIPE, line(1), idempotency_key="k"), 400)


async def test_closed_and_paused_pools_are_a_503() -> None:
    api = Api()

    api.parts.admission.intake.pause()
    paused = assert_problem(await api.client.post(PIPE, line(1)), 503)
    api.parts.admission.close()
    closed = assert_problem(await api.client.post(PIPE, line(1)), 503)

    assert (paused["reason"], paused["retry_after"]) == ("paused", 30)
    assert closed["retry_after"] == 7


async def test_more_pipes_than_the_setting_says_are_a_503() -> None:
    api = Api()
    http = replace(api.context.http, max_pipes=2)
    client = Client(create_app(replace(api.context, http=http)))

    async with client.open("POST", PIPE) as one, client.open("POST", PIPE) as other:
        for exchange in (one, other):
            await exchange.head()
        refused = await client.post(PIPE)
        other.hang_up()
        await wait_all_tasks_blocked()
        taken = await client.post(PIPE)

    problem = assert_problem(refused, 503)
    assert (problem["retry_after"], refused.headers["retry-after"]) == (10, "10")
    assert taken.status == 200


async def test_jobs_know_who_submitted_them() -> None:
    control = AccessControl(tokens=TokenTable.of(["submit a-token shop"]))
    api = Api()
    client = Client(AccessMiddleware(create_app(api.context), control))

    async with client.open("POST", PIPE, headers={"Authorization": "Bearer a-token"}) as exchange:
        await exchange.head()
        await exchange.send(line(1))
        await wait_all_tasks_blocked()
        [job] = api.parts.store.page_nowait(limit=5)

    assert job.submitted_by == "shop"
