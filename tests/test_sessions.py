"""The cookie of a session, and when an access is lost."""

import re
from collections.abc import Iterator
from hashlib import sha256

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.support import Clock
from trio_jobs.access import Access, Role
from trio_jobs.access_changes import AccessChanges
from trio_jobs.sessions import Sessions
from trio_jobs.tokens import TokenTable

NAME = "trio_jobs_8080"
FINGERPRINT = sha256(b"s3cret").digest()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(NAME, seconds=60, secure=False, clock=clock)


def sent_back(set_cookie: str) -> bytes:
    """What a browser sends of it."""
    return set_cookie.partition(";")[0].encode()


def attributes_of(set_cookie: str) -> set[str]:
    return {each.strip() for each in set_cookie.split(";")[1:]}


def test_session_is_found_by_its_cookie_until_its_end(sessions: Sessions, clock: Clock) -> None:
    cookie = sent_back(sessions.begin(FINGERPRINT))

    assert sessions.find(cookie) == (FINGERPRINT, 160)
    clock.now = 159.9
    assert sessions.find(cookie) == (FINGERPRINT, 160)
    clock.now = 160
    assert sessions.find(cookie) is None


def test_cookie_is_kept_from_scripts_and_other_sites_and_lasts_as_the_session(
    sessions: Sessions,
) -> None:
    attributes = {"HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=60"}

    assert attributes_of(sessions.begin(FINGERPRINT)) == attributes
    # Browsers drop a Secure cookie of plain HTTP.
    secure = Sessions(NAME, seconds=60, secure=True).begin(FINGERPRINT)
    assert attributes_of(secure) == attributes | {"Secure"}
    assert secure.startswith(f"__Host-{NAME}=")


def test_end_has_the_browser_forget_the_cookie(sessions: Sessions) -> None:
    ended = sessions.end()

    assert sent_back(ended) == f"{NAME}=".encode()
    assert "Max-Age=0" in attributes_of(ended)
    assert attributes_of(ended) - {"Max-Age=0"} < attributes_of(sessions.begin(FINGERPRINT))
    assert sessions.find(sent_back(ended)) is None


def changed(cookie: bytes) -> Iterator[bytes]:
    """The cookie with each of its characters replaced, and cut at each."""
    for index in range(len(cookie)):
        for other in b"0", b"f", b".", b";", b"\xff":
            if other != cookie[index : index + 1]:
                yield cookie[:index] + other + cookie[index + 1 :]
        yield cookie[:index]


def test_no_other_text_is_a_session(sessions: Sessions) -> None:
    cookie = sent_back(sessions.begin(FINGERPRINT))
    texts = [b"", b"=", b";", b"..", NAME.encode(), f"{NAME}=..".encode(), f"{NAME}=\xff".encode()]

    assert [text for text in (*changed(cookie), *texts) if sessions.find(text)] == []


def test_cookie_of_another_start_is_no_session(sessions: Sessions, clock: Clock) -> None:
    another = Sessions(NAME, seconds=60, secure=False, clock=clock)

    assert another.find(sent_back(sessions.begin(FINGERPRINT))) is None


def test_servers_with_the_same_token_accept_a_session_of_each_other(clock: Clock) -> None:
    one, other, later = (
        TokenTable.of(lines)
        for lines in (["read s3cret", "another"], ["control s3cret ann"], ["control new"])
    )
    servers = [
        Sessions(NAME, seconds=60, secure=False, clock=clock, key_of=table.session_key)
        for table in (one, other, later)
    ]

    cookie = sent_back(servers[0].begin(FINGERPRINT))

    found = [server.find(cookie) for server in servers]
    assert found == [(FINGERPRINT, 160), (FINGERPRINT, 160), None]
    assert [text for text in changed(cookie) if servers[1].find(text)] == []


def test_session_is_found_among_other_cookies_also_of_the_same_name(sessions: Sessions) -> None:
    cookie = sent_back(sessions.begin(FINGERPRINT))
    header = b"; ".join([b"a=b", NAME.encode() + b"=of another server", cookie, b"trio_jobs=1"])

    assert sessions.find(header) == (FINGERPRINT, 160)
    assert sessions.find(cookie.replace(b"8080", b"8081", 1)) is None


def test_token_is_in_no_cookie(sessions: Sessions) -> None:
    assert "s3cret" not in sessions.begin(FINGERPRINT)
    assert re.search(FINGERPRINT.hex(), sessions.begin(FINGERPRINT))


class Tokens:
    """A present table that a test replaces, and who waits for its changes."""

    def __init__(self, *lines: str) -> None:
        self.table: TokenTable | None = TokenTable.of(lines) if lines else None
        self.changes = AccessChanges(lambda: self.table, clock=trio.current_time)

    def replace(self, *lines: str) -> None:
        self.table = TokenTable.of(lines)
        self.changes.note()

    def access(self, token: str, *, expires: float | None = None) -> Access:
        assert self.table is not None
        entry = self.table.find(token.encode())
        assert entry is not None
        return Access(
            role=entry.role, name=entry.name, fingerprint=entry.fingerprint, expires=expires
        )


class Waiting:
    """A task that waits for the loss of an access."""

    def __init__(self, nursery: trio.Nursery, tokens: Tokens, access: Access) -> None:
        self._tokens = tokens
        self._access = access
        self.lost_at: float | None = None
        nursery.start_soon(self._wait)

    async def _wait(self) -> None:
        await self._tokens.changes.wait_lost(self._access)
        self.lost_at = trio.current_time()


async def test_access_is_lost_with_its_token_or_its_role_and_not_otherwise(
    autojump_clock: MockClock,
) -> None:
    tokens = Tokens("read gone ann", "read demoted", "control kept")
    async with trio.open_nursery() as nursery:
        names = ("gone", "demoted", "kept")
        waiting = {name: Waiting(nursery, tokens, tokens.access(name)) for name in names}
        await trio.sleep(1)
        tokens.replace("read gone ann", "read demoted", "control kept", "read new")
        await trio.sleep(1)
        unchanged = [each.lost_at for each in waiting.values()]
        tokens.replace("submit demoted", "control kept an-operator")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()

    assert unchanged == [None] * 3
    assert {name: each.lost_at for name, each in waiting.items()} == {
        "gone": autojump_clock.current_time() - 1,
        "demoted": autojump_clock.current_time() - 1,
        "kept": None,
    }


async def test_access_is_lost_at_the_end_of_its_session(autojump_clock: MockClock) -> None:
    tokens = Tokens("read ours")
    async with trio.open_nursery() as nursery:
        begun = trio.current_time()
        waiting = Waiting(nursery, tokens, tokens.access("ours", expires=begun + 60))
        await trio.sleep(50)
        tokens.replace("read ours")  # the end stays where it is

    assert waiting.lost_at == begun + 60


async def test_access_that_is_lost_already_is_not_waited_for(autojump_clock: MockClock) -> None:
    tokens = Tokens("read ours")
    over = tokens.access("ours", expires=trio.current_time() - 1)
    gone = tokens.access("ours")
    tokens.replace("read theirs")
    begun = trio.current_time()

    for access in (over, gone):
        await tokens.changes.wait_lost(access)

    assert trio.current_time() == begun


async def test_without_tokens_no_access_is_lost() -> None:
    tokens = Tokens()
    async with trio.open_nursery() as nursery:
        waiting = Waiting(nursery, tokens, Access(role=Role.CONTROL))
        await wait_all_tasks_blocked()
        tokens.changes.note()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert waiting.lost_at is None
