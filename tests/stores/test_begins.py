"""When the begin of a job that nobody waits for goes into the database: once it runs for long."""

import pytest
from msgspec.structs import replace

from tests.stores.fake_rounds import FakeDatabase, Server
from tests.support import NOON
from trio_jobs.job import Job, Later
from trio_jobs.stores import shared_store

JOB = Job(id="1", type="t", payload=b"null", created_at=NOON)


@pytest.fixture
def server() -> Server:
    """A server whose worker has claimed a job."""
    server = Server(FakeDatabase())
    server.store.submit([JOB], landed=lambda: None, refused=lambda _: None)
    while server.send():
        pass
    assert server.claim() is not None
    return server


@pytest.fixture
def _is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_store, "_LONG", 0.0)


def is_noted(server: Server) -> bool:
    return server.database.rows[JOB.id].job.started_at is not None


def test_a_short_job_is_not_noted(server: Server) -> None:
    server.store.hint(None)
    server.send()

    assert not is_noted(server)


@pytest.mark.usefixtures("_is_long")
def test_a_long_job_is_noted_once_at_a_heartbeat_and_not_for_its_own_sake(server: Server) -> None:
    assert not server.awake
    server.send()
    assert not is_noted(server)

    server.store.hint(None)
    server.send()

    assert is_noted(server)
    server.store.hint(None)
    assert server.store.take(may_fetch=False) is None


@pytest.mark.usefixtures("_is_long")
def test_a_long_job_is_noted_in_a_round_that_is_made_anyway(server: Server) -> None:
    server.store.submit([replace(JOB, id="2")], landed=lambda: None, refused=lambda _: None)

    server.send()

    assert is_noted(server)


@pytest.mark.usefixtures("_is_long")
def test_a_long_job_that_another_server_has_by_now_is_cut_off(server: Server) -> None:
    server.database.sweep(server.member)
    server.store.hint(None)

    server.send()
    server.store.postpone(JOB.id, Later(seconds=1.0))

    assert server.store.take(may_fetch=False) is None
    assert not is_noted(server)
