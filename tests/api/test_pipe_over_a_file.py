"""`POST /jobs/pipe` over a file whose commits the test makes: nothing is told before its commit."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.api.piping import PIPE, line, lines_of, next_line, outcomes, rest
from tests.api.support import accept
from tests.api.test_over_a_file import DurableApi
from tests.asgi import OpenRequest
from tests.durable import TIMEOUT, File, make_durable_parts, start_pool
from tests.support import SUCCEEDED
from trio_jobs import Ending, Handler, Job, Outcome


async def begun(exchange: OpenRequest) -> None:
    """Wait for the head and the blank line behind it."""
    assert await exchange.head() == 200
    assert await anext(exchange.pieces()) == b"\n"


async def test_answer_comes_when_the_end_is_on_the_disk() -> None:
    api = DurableApi()
    journal = api.parts.journal

    async with (
        trio.open_nursery() as nursery,
        api.client.open("POST", PIPE) as exchange,
    ):
        start_pool(api.parts, nursery)
        await begun(exchange)
        await exchange.send(line(1), last=True)
        await wait_all_tasks_blocked()
        assert api.parts.store.statistics().pending == 0  # it is not in yet
        journal.commit()
        await wait_all_tasks_blocked()
        assert api.parts.store.unwritten_ends()  # the handler has ended
        told: list[dict[str, object]] = []

        @nursery.start_soon
        async def read() -> None:
            told.append(await next_line(exchange))
            told.extend(await rest(exchange))

        await wait_all_tasks_blocked()
        before = list(told)
        journal.commit()
        await wait_all_tasks_blocked()
        api.parts.admission.close()
        nursery.start_soon(journal.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert before == []
    assert (told[0]["outcome"], told[0]["result"]) == ("succeeded", 1)
    assert told[1] == {"end": "input", "lines": 1, "succeeded": 1}


async def test_disk_that_refuses_jobs_ends_the_input_and_answers_the_others() -> None:
    api = DurableApi()

    async with trio.open_nursery() as nursery:
        start_pool(api.parts, nursery, succeed)
        async with api.client.open("POST", PIPE) as exchange:
            await begun(exchange)
            await exchange.send(line(1))
            await wait_all_tasks_blocked()
            api.parts.journal.commit()
            await wait_all_tasks_blocked()
            await exchange.send(line(2))
            await wait_all_tasks_blocked()
            api.parts.journal.refuse()
            await wait_all_tasks_blocked()
            api.parts.journal.commit()
            lines = await rest(exchange)
        nursery.cancel_scope.cancel()

    assert outcomes(lines) == {1: "succeeded"}
    assert lines[-1] == {"end": "store failing", "lines": 2, "succeeded": 1, "retry_after": 5}


async def succeed(_: Job) -> Ending:
    return SUCCEEDED


async def test_disk_that_does_not_answer_ends_the_input(autojump_clock: MockClock) -> None:
    api = DurableApi()

    async with api.client.open("POST", PIPE) as exchange:
        await begun(exchange)
        await exchange.send(line(1))
        lines = await rest(exchange)

    # It is unknown whether the line is in: it has no answer.
    assert lines == [{"end": "store failing", "lines": 1, "retry_after": 5}]
    assert trio.current_time() == TIMEOUT


async def test_after_a_restart_a_key_gets_the_answer_of_its_job() -> None:
    file: File = {}
    answers: list[dict[str, object]] = []
    for _ in range(2):
        parts = make_durable_parts({"default": Handler.of(accept)}, file=file)
        api = DurableApi(parts)
        async with trio.open_nursery() as nursery:
            start_pool(parts, nursery)
            nursery.start_soon(parts.journal.run)
            [answer, end] = lines_of(await api.client.post(PIPE, line(1, key="a")))
            assert end["succeeded"] == 1
            answers.append(answer)
            nursery.cancel_scope.cancel()
        file = parts.journal.file

    first, second = answers
    assert second == {**first, "replayed": True}


async def test_lines_that_a_stop_leaves_in_the_file_are_answered_after_the_restart() -> None:
    async def forever(_: object) -> None:
        await trio.sleep_forever()

    parts = make_durable_parts({"email": Handler.of(forever)}, workers=1)
    api = DurableApi(parts)
    async with api.client.open("POST", PIPE) as exchange:
        await begun(exchange)
        async with trio.open_nursery() as disk:
            disk.start_soon(parts.journal.run)
            async with trio.open_nursery() as nursery:
                start_pool(parts, nursery)
                await exchange.send(line(1, key="a") + line(2, key="b"))
                await wait_all_tasks_blocked()
                parts.admission.close()
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            disk.cancel_scope.cancel()
        lines = await rest(exchange)
    assert outcomes(lines) == {1: None, 2: None}
    assert (lines[-1]["end"], lines[-1]["not_completed"]) == ("shutting down", 2)
    assert not any(job.cancel_requested for job in parts.file.values())

    parts = make_durable_parts({"email": Handler.of(accept)}, file=parts.journal.file)
    api = DurableApi(parts)
    async with trio.open_nursery() as nursery:
        start_pool(parts, nursery)
        nursery.start_soon(parts.journal.run)
        again = lines_of(await api.client.post(PIPE, line(1, key="a") + line(2, key="b")))
        nursery.cancel_scope.cancel()
    assert {each["line"]: each["id"] for each in again[:-1]} == {
        each["line"]: each["id"] for each in lines[:-1]
    }
    assert outcomes(again) == {1: "succeeded", 2: "succeeded"}


async def test_job_that_ends_while_its_key_is_looked_up_is_answered() -> None:
    # At each of these moments, the file or the memory has another state of it.
    for steps in range(12):
        parts = make_durable_parts({"email": Handler.of(accept)})
        api = DurableApi(parts)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.journal.run, steps)
            first = api.post(nursery, PIPE, line(1, key="a"))
            await wait_all_tasks_blocked()
            second = api.post(nursery, PIPE, line(1, key="a"))
            start_pool(parts, nursery)
            with trio.fail_after(60):
                while not (first and second):
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        found = [lines_of(each[0]) for each in (first, second)]
        assert [outcomes(each) for each in found] == [{1: "succeeded"}] * 2, steps
        assert found[0][0]["id"] == found[1][0]["id"]
        assert len(parts.file) == 1


async def test_client_that_hangs_up_while_its_lines_are_on_their_way_to_the_disk() -> None:
    api = DurableApi()
    parts = api.parts

    async with trio.open_nursery() as nursery:
        async with api.client.open("POST", PIPE) as exchange:
            await begun(exchange)
            await exchange.send(line(1) + line(2, key="a"))
            await wait_all_tasks_blocked()
            exchange.hang_up()
            await wait_all_tasks_blocked()
            parts.journal.commit()
            await wait_all_tasks_blocked()
            assert parts.pool.waiters.calls == {}
        nursery.start_soon(parts.journal.run)
        start_pool(parts, nursery)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert [job.outcome for job in parts.file.values()] == [
        Outcome.CANCELLED,
        Outcome.SUCCEEDED,
    ]
