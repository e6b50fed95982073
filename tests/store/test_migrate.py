import asyncio
import re
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from brokerd.config.settings import Secret
from brokerd.errors import ConfigInvalid, StoreUnavailable
from brokerd.store import migrate
from brokerd.store.migrate import check, upgrade
from brokerd.store.tables import DEAL_PARTITIONS, SCHEMA, metadata

reflects_xid8 = pytest.mark.filterwarnings("ignore:Did not recognize type 'xid8'")


@pytest.fixture
def empty_url(database_url: str) -> str:
    """Give a database without our schema."""
    execute(database_url, "DROP SCHEMA IF EXISTS brokerd CASCADE")
    return database_url


@pytest.fixture
def inspected(empty_url: str) -> Iterator[sa.Connection]:
    """Give a connection to a database that the migrations made."""
    asyncio.run(upgrade(Secret(empty_url)))
    # The role is called brokerd, and "$user" would make our schema the nameless default one.
    options = "-c search_path=public"
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(empty_url, options=options),
        poolclass=sa.NullPool,
    )
    with engine.connect() as connection:
        yield connection


def execute(url: str, statement: str) -> list[tuple]:
    """Run one statement beside the migrations."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def ours(name: str | None, kind: str, parents: dict[str, str | None]) -> bool:
    """Look at schema brokerd alone, and not at what the tables do not know."""
    if kind == "schema":
        return name == SCHEMA
    unknown = {"alembic_version", *(f"deals_{part:02d}" for part in range(DEAL_PARTITIONS))}
    is_part = name in unknown or bool(re.fullmatch(r"events_\d{8}", name or ""))
    return not (kind == "table" and is_part) and parents is not None


@reflects_xid8
def test_the_migrations_make_exactly_the_tables(inspected: sa.Connection) -> None:
    """Columns, types, defaults, keys and indexes are those of store.tables."""
    context = MigrationContext.configure(
        inspected,
        opts={
            "include_schemas": True,
            "include_name": ours,
            "compare_type": True,
            "compare_server_default": True,
        },
    )
    assert compare_metadata(context, metadata) == []


@reflects_xid8
def test_what_alembic_does_not_compare_is_there_too(inspected: sa.Connection) -> None:
    """Checks, partial indexes, identities and the partitioning are as the tables say."""
    inspector = sa.inspect(inspected)
    for table in metadata.tables.values():
        checks = {c.name for c in table.constraints if isinstance(c, sa.CheckConstraint)}
        found = inspector.get_check_constraints(table.name, schema=SCHEMA)
        assert {each["name"] for each in found} == checks
        for column in inspector.get_columns(table.name, schema=SCHEMA):
            assert ("identity" in column) == (table.c[column["name"]].identity is not None)
    partial = {
        (index.name, index.dialect_options["postgresql"]["where"] is not None)
        for table in metadata.tables.values()
        for index in table.indexes
    }
    rows = inspected.execute(
        sa.text(
            "SELECT c.relname, i.indpred IS NOT NULL FROM pg_index i"
            " JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE c.relnamespace = 'brokerd'::regnamespace"
        )
    )
    assert partial <= {tuple(row) for row in rows}
    parts = inspected.scalar(
        sa.text("SELECT count(*) FROM pg_inherits WHERE inhparent = 'brokerd.deals'::regclass")
    )
    assert parts == DEAL_PARTITIONS


async def test_concurrent_upgrades_wait_for_each_other(empty_url: str) -> None:
    """Three nodes migrate at once: one does it, the others find it done."""
    url = Secret(empty_url)
    await asyncio.gather(*(upgrade(url) for _ in range(3)))
    await check(url)
    assert execute(empty_url, "SELECT count(*) FROM brokerd.alembic_version") == [(1,)]


async def test_an_old_schema_is_refused_with_what_to_do(empty_url: str) -> None:
    """The daemon never migrates; it says how."""
    with pytest.raises(ConfigInvalid, match="run `brokerd migrate`"):
        await check(Secret(empty_url))
    assert execute(empty_url, "SELECT to_regnamespace('brokerd')") == [(None,)]


async def test_a_newer_schema_is_refused_and_left_alone(empty_url: str) -> None:
    """An older brokerd neither runs on it nor migrates it."""
    url = Secret(empty_url)
    await upgrade(url)
    execute(empty_url, "UPDATE brokerd.alembic_version SET version_num = '9999'")
    for call in (check, upgrade):
        with pytest.raises(ConfigInvalid, match="newer than this brokerd"):
            await call(url)
    assert execute(empty_url, "SELECT version_num FROM brokerd.alembic_version") == [("9999",)]


async def test_a_migration_that_fails_leaves_nothing(empty_url: str) -> None:
    """All or nothing: what stands in the way is kept, and no half of ours beside it."""
    execute(empty_url, "CREATE SCHEMA brokerd CREATE TABLE events (mine int)")
    with pytest.raises(sa.exc.ProgrammingError):
        await upgrade(Secret(empty_url))
    tables = execute(
        empty_url, "SELECT relname FROM pg_class WHERE relnamespace = 'brokerd'::regnamespace"
    )
    assert tables == [("events",)]


@pytest.mark.parametrize("call", [check, upgrade])
async def test_the_url_is_never_told(
    call: object,
    database_url: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Wrong password, nobody there, or no URL at all: the secret stays one."""
    caplog.set_level("DEBUG")
    host = database_url.partition("?")[2]
    for url, kind in (
        (f"postgresql://brokerd:hunter2@/postgres?{host}", StoreUnavailable),
        ("postgresql://brokerd:hunter2@127.0.0.1:1/postgres", StoreUnavailable),
        ("postgresql://brokerd:hunter2@/x?nonsense=1", ConfigInvalid),
    ):
        with pytest.raises(kind) as caught:
            await call(Secret(url))
        assert "hunter2" not in repr(caught.value) + repr(caught.value.__cause__)
    captured = capsys.readouterr()
    assert "hunter2" not in caplog.text + captured.out + captured.err


async def test_events_move_into_the_feed(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first schema's outbox held is in the partitioned one, in order, with room ahead."""
    url = Secret(empty_url)
    monkeypatch.setattr(migrate, "_TARGET", "0001")
    await upgrade(url)
    execute(
        empty_url,
        "INSERT INTO brokerd.events (account_id, account_seq, link_id, user_id, type, payload,"
        " created_at) SELECT 1, n, 'l', 'u', 'deal.added', '{}', now() - interval '3 days'"
        " FROM generate_series(1, 3) n",
    )
    monkeypatch.undo()
    await upgrade(url)
    execute(
        empty_url,
        "INSERT INTO brokerd.events (account_id, account_seq, link_id, user_id, type, payload)"
        " VALUES (1, 4, 'l', 'u', 'deal.added', '{}')",
    )
    told = execute(
        empty_url, "SELECT account_seq, seq FROM brokerd.events ORDER BY generation, xid, seq"
    )
    assert told == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert execute(empty_url, "SELECT count(DISTINCT generation) FROM brokerd.events") == [(1,)]
    ahead = (
        "SELECT max(relname) = 'events_' || to_char((now() AT TIME ZONE 'UTC')::date + 7,"
        " 'YYYYMMDD') FROM pg_class WHERE relkind = 'r' AND relname LIKE 'events\\_2%'"
    )
    assert execute(empty_url, ahead) == [(True,)]
