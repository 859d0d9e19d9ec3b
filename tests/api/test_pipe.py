"""`POST /jobs/pipe`: each line gets its answer as its job ends, and what was said is true."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from tests.api.support import Api, accept, handlers_of
from tests.asgi import Answer
from tests.support import make_parts, start_pool

PIPE = "/jobs/pipe"

Line = dict[str, Any]


def line(payload: object, **members: object) -> bytes:
    return msgspec.json.encode({"type": "email", "payload": payload, **members}) + b"\n"


def lines_of(answer: Answer) -> list[Line]:
    """The answers and the end, without blank lines; the head is right."""
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-accel-buffering"] == "no"
    return [msgspec.json.decode(text) for text in answer.body.splitlines() if text]


@asynccontextmanager
async def running(
    functions: Mapping[str, Callable[[Any], Any]] | None = None,
    *,
    workers: int = 2,
    buffer_size: int = 100,
    keep_completed: int = 10_000,
) -> AsyncIterator[Api]:
    """An API whose pool runs these handlers; at the end it is drained."""
    api = Api(
        parts=make_parts(
            handlers_of(functions or {"default": accept}),
            workers=workers,
            buffer_size=buffer_size,
            keep_completed=keep_completed,
        )
    )
    async with api.parts.pool.places.open(), trio.open_nursery() as nursery:
        start_pool(api.parts, nursery)
        yield api
        api.parts.admission.close()


async def test_each_line_gets_its_answer() -> None:
    async def fail(payload: object) -> object:
        raise ValueError(f"no {payload}")

    async def double(payload: int) -> int:
        return 2 * payload

    async with running({"email": double, "bad": fail}) as api:
        body = line(1) + b"\n" + line(2, type="bad", key="k-2") + b'{"type":"x"}\n' + line(3)
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
    async with running() as api:
        async with api.client.open("POST", PIPE) as exchange:
            assert await exchange.head() == 200
            assert await anext(exchange.pieces()) == b"\n"
            for number in range(1, 4):
                await exchange.send(line(number))
                answer = msgspec.json.decode(await anext(exchange.pieces()))
                assert (answer["line"], answer["result"]) == (number, number)
            await exchange.send(b"", last=True)
            end = msgspec.json.decode(await anext(exchange.pieces()))
        assert end == {"end": "input", "lines": 3, "succeeded": 3}


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
