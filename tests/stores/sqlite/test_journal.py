"""The journal: what lands, what is refused, and what it holds until the disk takes it."""

from pathlib import Path

from msgspec.structs import replace

from tests.stores.sqlite.files import Calls, journal_of, opened, read
from tests.support import NOON, SUCCEEDED, make_job
from trio_jobs import Job, JobStatus
from trio_jobs.stores.sqlite.journal import Journal
from trio_jobs.stores.sqlite.store_file import open_store_file


def completed(job: Job) -> Job:
    return replace(job, status=JobStatus.COMPLETED, completed_at=NOON, ending=SUCCEEDED)


async def test_records_are_in_the_file_when_they_land(tmp_path: Path) -> None:
    path, calls = tmp_path / "jobs.db", Calls()
    seen: list[list[tuple[int, Job]]] = []
    with opened(path) as file:
        async with journal_of(file, calls) as journal:
            journal.append([(1, make_job("a"))], landed=lambda: seen.append(read(path)))
            assert journal.unwritten == 1
            assert journal.oldest_unwritten_seconds > 0
            await journal.settled()

            assert seen == [[(1, make_job("a"))]]
            assert (journal.unwritten, journal.oldest_unwritten_seconds) == (0, 0.0)
            assert journal.failing is None


async def test_records_land_in_the_order_in_which_they_were_handed_over(tmp_path: Path) -> None:
    calls = Calls()
    with opened(tmp_path / "jobs.db") as file:
        async with journal_of(file, calls) as journal:
            for seq in range(1, 501):
                calls.submit(journal, str(seq), [(seq, make_job(f"{seq:04}"))])
                calls.append(journal, f"{seq} ended", [(seq, completed(make_job(f"{seq:04}")))])

    assert calls.landed == [f"{n}{end}" for n in range(1, 501) for end in ("", " ended")]
    assert [job.status for _, job in read(tmp_path / "jobs.db")] == [JobStatus.COMPLETED] * 500


async def test_close_writes_all_that_was_handed_over(tmp_path: Path) -> None:
    calls = Calls()
    file = open_store_file(tmp_path / "jobs.db")
    journal = Journal(file, failed=calls.failed.append)
    journal.start()
    for seq in range(1, 5_001):
        calls.append(journal, "a", [(seq, make_job(str(seq)))])

    assert await journal.close(30)
    file.close()

    assert len(read(tmp_path / "jobs.db")) == len(calls.landed) == 5_000


async def test_settled_does_not_wait_for_what_comes_after(tmp_path: Path) -> None:
    calls = Calls()
    with opened(tmp_path / "jobs.db") as file:
        async with journal_of(file, calls) as journal:
            await journal.settled()  # there is nothing
            calls.append(journal, "a", [(1, make_job("a"))])
            await journal.settled()
            calls.append(journal, "b", [(2, make_job("b"))])

            assert calls.landed == ["a"]
