"""A stop of the real command under pipes: each line that was accepted is answered."""

import itertools
import random
import re
import signal
from contextlib import suppress
from math import ceil
from pathlib import Path

import msgspec
import pytest
import trio

from tests.api.piping import Line
from tests.command import Command, configuration, ledger, running_command
from tests.proof.share import share_of
from tests.server.serving import get

PATH = "/jobs/pipe?type=short"
SEEDS_OF_THE_SOAK = [
    pytest.param(seed, marks=pytest.mark.soak) for seed in range(3, 3 + ceil(share_of(47)))
]
LINE = re.compile(rb'\{"(?:line|end)":.*\}')


async def pipe_until_its_end(
    server: Command, name: int, answers: int, begun: list[trio.Event]
) -> list[Line]:
    """Send lines without end; what came.

    The first client sends a SIGTERM after so many answers, when all others have one.
    """
    host, port = server.url.removeprefix("http://").split(":")
    received = b""
    async with await trio.open_tcp_stream(host, int(port)) as connection:
        await connection.send_all(get(PATH, "Transfer-Encoding: chunked", method="POST"))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                with suppress(trio.BrokenResourceError):  # it takes no more
                    for number in itertools.count(1):
                        text = b'{"payload":"%d-%d"}\n' % (name, number)
                        await connection.send_all(b"%x\r\n%b\r\n" % (len(text), text))

            while more := await connection.receive_some():
                received += more
                if b'"outcome"' in received:
                    begun[name].set()
                if name == 0 and answers and received.count(b'"outcome"') >= answers:
                    answers = 0
                    for each in begun:
                        await each.wait()
                    server.send(signal.SIGTERM)
            nursery.cancel_scope.cancel()
    return [msgspec.json.decode(text) for text in LINE.findall(received)]


@pytest.mark.parametrize("seed", [*range(3), *SEEDS_OF_THE_SOAK])
async def test_sigterm_under_pipes_answers_each_accepted_line(tmp_path: Path, seed: int) -> None:
    config = configuration("short", workers=3, buffer_size=10, grace_period=60)
    answers = random.Random(seed).randrange(1, 60)  # noqa: S311  (any)
    found: dict[int, list[Line]] = {}
    begun = [trio.Event() for _ in range(3)]

    async with running_command(tmp_path, config=config) as server:
        async with trio.open_nursery() as nursery:
            for name in range(3):

                @nursery.start_soon
                async def run(name: int = name) -> None:
                    found[name] = await pipe_until_its_end(server, name, answers, begun)

        status = await server.wait_exit()

    assert status == 0
    ran = ledger(tmp_path)
    told = []
    for name, (*lines, end) in found.items():
        assert end["end"] == "shutting down"
        assert end["succeeded"] == len(lines)
        assert {each["outcome"] for each in lines} == {"succeeded"}
        told += [f"{name}-{each['line']}" for each in lines]
    # What ran was answered, and what was answered ran, once.
    assert sorted(told) == ran
