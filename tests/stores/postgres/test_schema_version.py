"""Migrations, the check of the version, and the rights that the roles of a database need."""

import psycopg
import pytest
import trio

from tests.postgres.databases import Database
from tests.stores.postgres.member import joined, listening, make_job, notes
from trio_jobs.api.validation import check_submission
from trio_jobs.handlers.registry import HandlerRegistry
from trio_jobs.job import IdempotencyKey
from trio_jobs.pool.ids import is_id
from trio_jobs.pool.store import StoreDatabaseError
from trio_jobs.stores.postgres.schema_version import VERSION, check_schema, migrate
from trio_jobs.stores.postgres.trio_connection import connect

SCHEMA_OF_A_DUMP = b"""
    create schema trio_jobs;
    create table trio_jobs.schema_version as select 1 as version, 1 as compatible_from;
"""


async def test_a_database_is_migrated_once_though_several_do_it(empty_database: Database) -> None:
    versions: list[int] = []

    async def migrate_it() -> None:
        async with await connect(empty_database.url, name="test") as connection:
            versions.append(await migrate(connection))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(migrate_it)

    assert sorted(versions) == [0, VERSION, VERSION]
    async with await connect(empty_database.url, name="test") as connection:
        await check_schema(connection)


async def test_an_empty_database_is_refused_with_the_way_out(empty_database: Database) -> None:
    async with await connect(empty_database.url, name="test") as connection:
        with pytest.raises(StoreDatabaseError, match="run 'trio-jobs migrate' first"):
            await check_schema(connection)


@pytest.mark.parametrize(
    ("version", "compatible_from", "fault"),
    [
        (VERSION, VERSION, None),
        (VERSION + 1, VERSION, None),
        (VERSION + 1, VERSION + 1, "start the newer program"),
        (VERSION - 1, VERSION - 1, "run 'trio-jobs migrate' first"),
    ],
)
async def test_a_newer_version_is_taken_if_it_says_so(
    database: Database, version: int, compatible_from: int, fault: str | None
) -> None:
    sql = "update trio_jobs.schema_version set version = %s, compatible_from = %s"
    await database.fetch(sql, version, compatible_from)

    async with await connect(database.url, name="test") as connection:
        if fault is None:
            await check_schema(connection)
        else:
            with pytest.raises(StoreDatabaseError, match=fault):
                await check_schema(connection)


async def test_a_schema_without_its_version_is_refused(database: Database) -> None:
    # As from `pg_dump --schema-only`.
    await database.fetch("delete from trio_jobs.schema_version")
    async with await connect(database.url, name="test") as connection:
        for check in (check_schema, migrate):
            with pytest.raises(StoreDatabaseError, match="schema_version is empty"):
                await check(connection)


async def test_a_database_that_cannot_hold_each_text_is_refused(
    empty_database: Database,
) -> None:
    name = f"{empty_database.name}_latin1"
    await trio.to_thread.run_sync(
        empty_database.cluster.execute,
        f"create database {name} encoding 'LATIN1' template template0",
    )
    async with await connect(empty_database.cluster.url(name), name="test") as connection:
        with pytest.raises(StoreDatabaseError, match="must be UTF8, got LATIN1"):
            await migrate(connection)
        # As from a dump of another database.
        await connection.execute(SCHEMA_OF_A_DUMP)
        with pytest.raises(StoreDatabaseError, match="must be UTF8, got LATIN1"):
            await check_schema(connection)


async def test_a_submission_is_there_when_its_transaction_commits(database: Database) -> None:
    async with joined(database.url) as member, await connect(database.url, name="user") as user:
        await user.execute(b"begin")
        cursor = await user.execute(
            b"""select trio_jobs.submit('mail', '{"to": "a"}', 'k')::text,
            trio_jobs.submit('mail')::text"""
        )
        row = await cursor.fetchone()
        before = await member.fetch(9)
        await user.execute(b"commit")
        after = await member.fetch(9)
        repeated = await database.fetch("select trio_jobs.submit('other', key => 'k')::text")

    assert row is not None
    first, second = row
    assert before == []
    assert [(owned.job.id, owned.job.payload) for owned in after] == [
        (first, b'{"to": "a"}'),
        (second, b"null"),
    ]
    assert after[0].job.key == IdempotencyKey(text="k", digest=b"")
    assert is_id(first)
    assert first < second
    assert repeated == [(first,)]


async def test_submissions_of_one_transaction_are_told_by_the_first_and_the_second(
    database: Database,
) -> None:
    async with joined(database.url) as member, listening(database.url) as listener:
        await member.execute("begin")
        rows = await member.execute(
            "select trio_jobs.submit('t')::text from generate_series(1, 1000)"
        )
        ids = [row[0] for row in rows]
        await member.execute("savepoint s")
        await member.execute("select trio_jobs.submit('t')")
        await member.execute("rollback to s")
        await member.execute("commit")

        assert ids == sorted(ids)
        assert await notes(listener, member) == [("trio_jobs", "n" + ids[0]), ("trio_jobs", ids[1])]


async def test_a_key_is_free_whose_job_is_deleted_while_it_is_looked_up(database: Database) -> None:
    await database.fetch("select trio_jobs.submit('old', key => 'k')")
    await database.fetch(
        "create function trio_jobs.delete_old() returns trigger language plpgsql as "
        "$$ begin delete from trio_jobs.jobs where type = 'old'; return null; end $$"
    )
    await database.fetch(
        "create trigger delete_old after insert on trio_jobs.jobs "
        "for each statement execute function trio_jobs.delete_old()"
    )

    [(job_id,)] = await database.fetch("select trio_jobs.submit('new', key => 'k')::text")

    assert await database.fetch("select id::text, type from trio_jobs.jobs") == [(job_id, "new")]


async def test_a_submission_that_is_rolled_back_is_not_told(database: Database) -> None:
    async with joined(database.url) as member, listening(database.url) as listener:
        await member.execute("begin")
        await member.execute("savepoint s")
        await member.execute("select trio_jobs.submit('t')")
        await member.execute("rollback to s")
        rows = [await member.execute("select trio_jobs.submit('t')::text") for _ in range(2)]
        await member.execute("rollback to s")
        [(last,)] = await member.execute("select trio_jobs.submit('t')::text")
        await member.execute("commit")

        assert last > rows[1][0][0]
        assert await notes(listener, member) == [("trio_jobs", "n" + last)]


async def test_a_transaction_that_tells_of_nothing_can_be_prepared(database: Database) -> None:
    async with joined(database.url) as member, await connect(database.url, name="user") as user:
        await user.execute(b"begin")
        await user.execute(b"set local trio_jobs.told = 'all'")
        await user.execute(b"select trio_jobs.submit('t') from generate_series(1, 2)")
        await user.execute(f"prepare transaction '{database.name}'".encode())
        try:
            before = await member.fetch(9)
        finally:
            await user.execute(f"commit prepared '{database.name}'".encode())
        [(pending,)] = await member.execute(
            "select pending from trio_jobs.beat(%s, 60)", member.session.member
        )

        assert before == []
        assert pending
        assert len(await member.fetch(9)) == 2


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("null", "type must be a non-empty text"),
        ("''", "type must be a non-empty text"),
        ("'t', key => ''", "key must be 1 to 255 visible ASCII characters"),
        ("'t', key => 'ä'", "key must be 1 to 255 visible ASCII characters"),
        ("repeat('t', 50000001)", "type and payload must have at most 50000000 bytes"),
        (
            "'t', to_json(repeat('p', 50000000))",
            "type and payload must have at most 50000000 bytes",
        ),
        (f"'t', '{'[' * 65}{']' * 65}'", "payload must be nested at most 64 levels deep"),
        (
            f"""'t', '{'{"a]": [1,' * 33}2{"]}" * 33}'""",
            "payload must be nested at most 64 levels deep",
        ),
        ("'t', '[1e309]'", '"1e309" is out of range for type double precision'),
        ("'t', '{\"a\": -10.5E+308}'", '"10.5E+308" is out of range for type double precision'),
        (f"'t', '1{'0' * 309}.5'", "is out of range for type double precision"),
        (f"'t', '[1.5, {'9' * 4301}]'", "an integer of more than 4300 characters"),
        (f"'t', '-{'9' * 4300}'", "an integer of more than 4300 characters"),
        (r"""'t', '["\ud800"]'""", "payload must not have half of a surrogate pair"),
        (r"""'t', '["\uDC00"]'""", "payload must not have half of a surrogate pair"),
        (r"""'t', '["\ud83d\ude00\ude00"]'""", "payload must not have half of a surrogate pair"),
        (r"""'t', '["\ud83d\\\ude00"]'""", "payload must not have half of a surrogate pair"),
    ],
)
async def test_a_submission_that_no_client_could_make_is_refused(
    database: Database, arguments: str, fault: str
) -> None:
    with pytest.raises(psycopg.Error) as refusal:
        await database.fetch(f"select trio_jobs.submit({arguments})")

    assert fault in str(refusal.value)


def take(payload: object) -> object:
    return payload


UNUSUAL = [
    "[" * 64 + "]" * 64,
    '["' + "[" * 100 + r"\"" + "{" * 100 + r'\\"]',
    "[" + "[]," * 10_000 + "{}]",
    "[1e308, -1.7976931348623157e308, 1e-999, 0e999, false, true, null]",
    f'[{"9" * 4300}, -{"9" * 4299}, "{"9" * 9000}", {"9" * 4310}e-4300, -{"9" * 4310}.0E-4300]',
    r'["\u0000", "\ud83d\ude00", "\\ud800", "1e999", "\udbff\udfff\ud83d\ude00"]',
    '{"a": 1, "a": 2,\n\t"": {}}',
    " null ",
    '"' + "p" * 2_000_000 + '"',
]


@pytest.mark.parametrize("payload", UNUSUAL, ids=range(len(UNUSUAL)))
async def test_each_payload_by_sql_is_one_over_http(database: Database, payload: str) -> None:
    [(job_id,)] = await database.fetch("select trio_jobs.submit('t', %s::json)::text", payload)
    async with joined(database.url) as member:
        [owned] = await member.fetch(9)

    assert (owned.job.id, owned.job.payload) == (job_id, payload.encode())
    check_submission("t", owned.job.payload, HandlerRegistry.of({"t": take}))


async def test_a_session_with_backslash_escapes_in_strings_may_submit(database: Database) -> None:
    payload = r'["\u00e4 \ud83d\ude00 \"[ 1e999"]'
    async with await connect(database.url, name="user") as user:
        await user.execute(b"set standard_conforming_strings = off")
        await user.execute("select trio_jobs.submit('t', %s::json)", (payload,))
        with pytest.raises(psycopg.Error, match="half of a surrogate pair"):
            await user.execute("select trio_jobs.submit('t', %s::json)", (r'"\ud83d"',))

    assert await database.fetch("select payload::text from trio_jobs.jobs") == [(payload,)]


# What a server that begins without it would miss only later, and how that is told.
RIGHTS = {
    "select on trio_jobs.schema_version": "permission denied for table schema_version",
    "insert on trio_jobs.jobs": "it lacks insert on trio_jobs.jobs$",
    "delete on trio_jobs.jobs, trio_jobs.members": (
        "it lacks delete on trio_jobs.jobs, delete on trio_jobs.members$"
    ),
    "execute on function trio_jobs.sweep": "it lacks execute on sweep$",
    "execute on all functions in schema trio_jobs": "it lacks .*, and [0-9]+ more$",
}


async def test_roles_need_and_get_no_more_than_they_use(database: Database) -> None:
    """As docs/how-to/postgres.md says."""
    name = database.name
    tables = "trio_jobs.jobs, trio_jobs.members"
    for sql in (
        f"create role server_{name} login",
        f"create role shop_{name} login",
        f"grant usage on schema trio_jobs to server_{name}, shop_{name}",
        f"grant select on trio_jobs.schema_version to server_{name}",
        f"grant select, insert, update, delete on {tables} to server_{name}",
        f"grant execute on all functions in schema trio_jobs to server_{name}",
        f"grant execute on function trio_jobs.submit to shop_{name}",
    ):
        await database.fetch(sql)
    server = database.cluster.url(name, user=f"server_{name}")
    shop = database.cluster.url(name, user=f"shop_{name}")

    async with joined(server) as member, await connect(shop, name="user") as user:
        await check_schema(member.connection)
        await member.add(make_job(1))
        await user.execute(b"select trio_jobs.submit('t', key => 'k')")
        await user.execute(b"select trio_jobs.submit('t', key => 'k')")
        assert len(await member.fetch(9)) == 2
        for beyond in (b"select from trio_jobs.jobs", b"select trio_jobs.request_cancel(null)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await user.execute(beyond)
        with pytest.raises(StoreDatabaseError, match="the database refuses its user: permission"):
            await check_schema(user)
        for right, lacks in RIGHTS.items():
            await database.fetch(f"revoke {right} from server_{name}")
            with pytest.raises(StoreDatabaseError, match=f"refuses its user: {lacks}"):
                await check_schema(member.connection)
            await database.fetch(f"grant {right} to server_{name}")
    for role in ("server", "shop"):
        await database.fetch(f"drop owned by {role}_{name}")
        await database.fetch(f"drop role {role}_{name}")
