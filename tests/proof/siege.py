"""A server under siege: how those around it connect, and what they have been told and have done."""

import itertools
import json
import random
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import httpx
import trio

from tests.command import Command
from tests.proof.accounts import Told
from tests.proof.talking import connect, take_down, task
from tests.server.serving import Answer, Client, get, post

T = TypeVar("T")

# The one that the wrong ones of `tests.server.test_access_control` come close to.
TOKEN = "s3cret"  # noqa: S105  (nobody's)
SHOWN = {"Authorization": f"Bearer {TOKEN}"}
SHOW = f"Authorization: Bearer {TOKEN}"


@dataclass(slots=True)
class Siege:
    """A server and those around it.

    Attributes:
        urls: Where it listens.
        tls: What its clients go by, if it is one with TLS.
        crowd: How many idle clients come at once.
        lacking: The kinds of attack of which more are to be carried out, and how many.
        complete: Set when there are none.
        carried_out: How often an attack of each kind has got as far as it meant to.
        ignored: Honest clients that are still to be served before the stop.
        all_served: Set when there are none.
        delays: How long each honest request took on a connection that was there, in seconds.
        turns: The same for clients that had to get in first.
        waiting: Tokens of jobs whose clients are waiting for them.
        stopping: Whether the server has been asked to.
    """

    server: Command
    urls: list[httpx.URL]
    tls: ssl.SSLContext | None
    crowd: int
    lacking: Counter[str]
    complete: trio.Event = field(default_factory=trio.Event)
    told: Told = field(default_factory=Told)
    chance: random.Random = field(default_factory=lambda: random.Random(20261125))  # noqa: S311 - to be repeated
    carried_out: Counter[str] = field(default_factory=Counter)
    ignored: set[str] = field(default_factory=set)
    all_served: trio.Event = field(default_factory=trio.Event)
    delays: list[float] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    stopping: bool = False
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _turns: Counter[str] = field(default_factory=Counter)

    async def connect(self, *, bare: bool = False) -> Client:
        """A connection to one of the addresses; a bare one has shaken no hands."""
        return await connect(self.chance.choice(self.urls), None if bare else self.tls)

    def count(self, kind: str) -> None:
        """One more attack of this kind has been carried out."""
        self.carried_out[kind] += 1
        if kind in self.lacking:
            self.lacking[kind] -= 1
            self.lacking = +self.lacking  # without those of which enough have been
            if not self.lacking:
                self.complete.set()

    def serve(self, name: str) -> None:
        """This honest client has been served."""
        if name in self.ignored:
            self.ignored.remove(name)
            if not self.ignored:
                self.all_served.set()

    def in_turn(self, name: str, things: Sequence[T]) -> T:
        """The next of these, so that all of them come up."""
        number = self._turns[name]
        self._turns[name] += 1
        return things[number % len(things)]

    def token(self, name: str) -> str:
        """What nobody has called a job yet. There may be one by this name from now on."""
        token = f"{name}-{next(self._numbers)}"
        self.told.unanswered.add(token)
        return token

    def expect(self, answer: Answer, *statuses: int) -> None:
        """Assert that a client was told the right thing. During the stop, 503 is right as well."""
        right = answer.status in statuses or (self.stopping and answer.status == 503)
        assert right, f"{answer} and not {statuses}"

    async def learn(self, client: Client, token: str, *statuses: int) -> Answer:
        """The answer to the submission of this job, taken down; it must be right."""
        answer = await client.receive_answer()
        take_down(self.told, token, answer)
        self.expect(answer, *statuses)
        return answer


Attack = Callable[[Siege, Client], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of attack.

    Attributes:
        attack: Returns when it has got as far as it meant to.
        attackers: How many clients do nothing else.
        ways: How many different attacks it makes in turn.
        bare: Whether it begins before the handshake of TLS.
        pause: The longest time between two of them, in seconds.
    """

    attack: Attack
    attackers: int
    ways: int = 1
    bare: bool = False
    pause: float = 0.2

    @property
    def name(self) -> str:
        """What it is called in the report."""
        return self.attack.__name__


def job(token: str, seconds: float = 0.01, job_type: str = "work") -> bytes:
    """The body of the submission of a job."""
    return json.dumps(task(job_type, token, seconds)).encode()


def ask(path: str, *lines: str, method: str = "GET") -> bytes:
    """A request without a body, from somebody who is let in."""
    return get(path, SHOW, *lines, method=method)


def tell(body: bytes, path: str = "/jobs", *lines: str) -> bytes:
    """A request with a body, from somebody who is let in."""
    return post(body, path, SHOW, *lines)


def let_in(data: bytes) -> bytes:
    """A request to ``/`` of the tests of the HTTP server, as one to ``/jobs`` that is let in."""
    host = b"Host: localhost\r\n"
    return data.replace(host, host + SHOW.encode() + b"\r\n", 1).replace(b" / H", b" /jobs H", 1)


async def outcome(client: Client, *, head_only: bool = False) -> int:
    """The status of the next answer; 0 if the connection ends without one."""
    try:
        return (await client.receive_answer(head_only=head_only)).status
    except (EOFError, trio.BrokenResourceError):
        return 0


async def read_to_the_end(client: Client) -> None:
    """Until the server has closed the connection, in whatever way."""
    await client.receive_rest()
