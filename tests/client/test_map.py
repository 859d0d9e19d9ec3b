"""`AsyncClient.map` and `stream`, over slices of a fake pipe, on both event loops."""

from tests.client.fake_pipe import Fate, fake_pipe
from tests.client.support import on_both_loops


@on_both_loops
async def test_each_payload_has_one_result() -> None:
    async with fake_pipe() as (client, server), client.map("double", range(1000)) as results:
        values = {result.line: result.value() async for result in results}

    assert values == {number + 1: 2 * number for number in range(1000)}
    assert max(map(len, server.requests)) <= 50
    assert server.open == 0


@on_both_loops
async def test_a_broken_connection_costs_no_record_and_no_second_run() -> None:
    async with (
        fake_pipe(fates=[Fate(cut=500)]) as (client, server),
        client.map("double", range(100)) as results,
    ):
        values = {result.line: result.value() async for result in results}

    assert values == {number + 1: 2 * number for number in range(100)}
    assert set(server.runs.values()) == {1}
