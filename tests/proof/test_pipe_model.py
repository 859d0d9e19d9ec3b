"""A client that sends what has no answer again: each line is answered once, however a pipe breaks.

Any lines, cut anywhere, over connections that break anywhere; in memory, and over a file whose
pool is cut off in between.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import ceil

import msgspec
import trio
from hypothesis import event, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests import durable
from tests.api.piping import PIPE, Line, line
from tests.asgi import Client
from tests.durable import File, make_durable_parts
from tests.proof.share import share_of
from tests.support import HandlerRegistry, HttpSettings, make_parts, start_pool
from trio_jobs import Handler
from trio_jobs.api.api_context import ApiContext
from trio_jobs.api.app import create_app
from trio_jobs.pool.pool import Pool


@dataclass(frozen=True)
class Sent:
    """A line of the client.

    Attributes:
        number: Which.
        text: The line.
        key: Its key.
        payload: Its payload; None if it is no job.
    """

    number: int
    text: bytes
    key: str | None = None
    payload: int | None = None


def keyed(number: int, key: int, payload: int) -> Sent:
    """One of few keys, mostly with its own payload."""
    text = line(payload, key=f"k{key}")
    return Sent(number=number, text=text, key=f"k{key}", payload=payload)


@st.composite
def sents(draw: st.DrawFn) -> list[Sent]:
    """What the client wants to have answered, and blank lines."""
    found = []
    for number in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(["plain", "own key", "own key", "key", "bad", "blank"]))
        own = 1_000 + number
        if kind == "plain":
            sent = Sent(number, line(own, delay=draw(st.sampled_from([0, 0, 0.5]))), payload=own)
        elif kind == "own key":
            sent = Sent(number, line(own, key=f"own{own}"), f"own{own}", own)
        elif kind == "key":
            key = draw(st.integers(0, 2))
            sent = keyed(number, key, key + draw(st.sampled_from([0, 0, 0, 10])))
        elif kind == "bad":
            sent = Sent(number, draw(st.sampled_from([b"{}\n", b"{\n", b'{"type":"no"}\n'])))
        else:
            sent = Sent(number, b" \r\n")
        found.append(sent)
    return found


@dataclass(frozen=True)
class Break:
    """How one connection goes.

    Attributes:
        pieces: The lengths of the pieces of its body.
        after: How many answers the client reads before it hangs up.
        window: Of the pipe.
        restart: Whether the pool is cut off afterwards.
    """

    pieces: list[int]
    after: int
    window: int
    restart: bool


BREAKS = st.builds(
    Break,
    pieces=st.lists(st.integers(1, 120), max_size=8),
    after=st.integers(0, 12),
    window=st.integers(1, 8),
    restart=st.booleans(),
)


@dataclass
class Account:
    """What the client, and the handler, know.

    Attributes:
        answers: By the number of the line.
        runs: How often the handler has begun, by payload.
        ids: The job of each key that has been answered.
        tries: How often each line was sent.
    """

    answers: dict[int, Line] = field(default_factory=dict)
    runs: Counter[int] = field(default_factory=Counter)
    ids: dict[str, str] = field(default_factory=dict)
    tries: Counter[int] = field(default_factory=Counter)
    restarts: int = 0

    async def work(self, payload: int) -> int:
        """The handler."""
        self.runs[payload] += 1
        await trio.sleep(payload % 3 / 10)
        return payload * 2

    def take(self, answer: Line, sent: Sent) -> None:
        """Note the answer to this line; a line without an outcome has none yet."""
        assert sent.text.strip()
        if "outcome" in answer:
            assert sent.number not in self.answers
            self.answers[sent.number] = answer
            assert answer.get("key") == sent.key
        if "id" in answer and sent.key is not None and "outcome" in answer:
            assert self.ids.setdefault(sent.key, answer["id"]) == answer["id"]

    async def talk(self, client: Client, wanted: list[Sent], broken: Break | None) -> None:
        """Send the lines that have no answer over one connection."""
        left = [each for each in wanted if each.number not in self.answers]
        self.tries.update(each.number for each in left)
        pieces = cut(b"".join(each.text for each in left), broken.pieces if broken else [])
        window = broken.window if broken else 16
        async with (
            client.open("POST", f"{PIPE}?window={window}") as exchange,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def send() -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    for piece in pieces:
                        await exchange.send(piece)
                    await exchange.send(b"", last=True)

            assert await exchange.head() == 200
            rest, read = b"", 0
            async for piece in exchange.pieces():
                *texts, rest = (rest + piece).split(b"\n")
                for text in texts:
                    if text and b'"end"' not in text:
                        answer = msgspec.json.decode(text, type=Line)
                        self.take(answer, left[answer["line"] - 1])
                        read += 1
                if broken is not None and read >= broken.after:
                    break
            exchange.hang_up()
            nursery.cancel_scope.cancel()


def cut(text: bytes, lengths: list[int]) -> list[bytes]:
    """The text in pieces of these lengths; the rest is the last one."""
    pieces = []
    for length in lengths:
        pieces.append(text[:length])
        text = text[length:]
    return [*pieces, text]


Opened = Callable[[Account], AsyncIterator[Pool]]


@asynccontextmanager
async def opened(start: Callable[[trio.Nursery], None], pool: Pool) -> AsyncIterator[Client]:
    """A client of an API over this pool; the pool is cut off behind the block."""
    async with trio.open_nursery() as nursery:
        start(nursery)
        context = ApiContext(pool=pool, http=HttpSettings(), shutdown_retry_after=1)
        yield Client(create_app(context))
        assert pool.waiters.calls == {}
        nursery.cancel_scope.cancel()


async def in_memory(account: Account, wanted: list[Sent], breaks: list[Break]) -> None:
    handlers = HandlerRegistry({"email": Handler.of(account.work)})
    parts = make_parts(handlers, buffer_size=3, max_waiting=100)
    async with opened(partial(start_pool, parts), parts.pool) as client:
        for each in [*breaks, None]:
            await account.talk(client, wanted, each)
        with trio.move_on_after(5):
            await trio.sleep(5)  # what goes on ends
        assert parts.store.statistics().processing == 0


async def over_a_file(account: Account, wanted: list[Sent], breaks: list[Break]) -> None:
    handlers = {"email": Handler.of(account.work)}
    file: File = {}
    left: list[Break | None] = [*breaks, None]
    while left:
        parts = make_durable_parts(handlers, file=file, buffer_size=3)
        async with trio.open_nursery() as disk:
            disk.start_soon(parts.journal.run, 1)
            async with opened(partial(durable.start_pool, parts), parts.pool) as client:
                each = left.pop(0)
                await account.talk(client, wanted, each)
                while left and each is not None and not each.restart:
                    each = left.pop(0)
                    await account.talk(client, wanted, each)
            disk.cancel_scope.cancel()
        account.restarts += bool(left)
        file = parts.journal.file


def check(account: Account, wanted: list[Sent]) -> None:
    """Each line has its one answer, and no job with a key ran twice while it was remembered."""
    first: dict[str, int] = {}
    for sent in wanted:
        if not sent.text.strip():
            assert sent.number not in account.answers
            continue
        answer = account.answers[sent.number]
        if sent.payload is None:
            assert (answer["outcome"], answer["error"]["type"]) == ("refused", "Refused")
            continue
        if sent.key is None:
            # A lost client's jobs without a key are cancelled, and its line is sent again.
            assert account.runs[sent.payload] <= account.tries[sent.number] + account.restarts
        elif first.setdefault(sent.key, sent.payload) != sent.payload:
            assert (answer["outcome"], answer["error"]["type"]) == ("refused", "KeyReused")
            continue
        else:
            # A pool that is cut off begins a job again that was running.
            assert 1 <= account.runs[sent.payload] <= 1 + account.restarts
            assert answer["id"] == account.ids[sent.key]
        assert (answer["outcome"], answer["result"]) == ("succeeded", sent.payload * 2)


@settings(max_examples=ceil(share_of(150)))
@given(sents(), st.lists(BREAKS, max_size=4), st.sampled_from([in_memory, over_a_file]))
def test_each_line_is_answered_once_however_connections_break(
    wanted: list[Sent],
    breaks: list[Break],
    place: Callable[[Account, list[Sent], list[Break]], object],
) -> None:
    account = Account()

    async def main() -> None:
        with trio.fail_after(1_000):
            await place(account, wanted, breaks)  # type: ignore[misc]

    trio.run(main, clock=MockClock(autojump_threshold=0))

    check(account, wanted)
    if max(account.tries.values(), default=0) > 1:
        event("some were sent again")
    if any(answer.get("replayed") for answer in account.answers.values()):
        event("some were answered by a job that was there")
    if account.restarts:
        event("the pool was cut off")
