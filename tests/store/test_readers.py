"""A direct reader sees one user's ledger, changes nothing, and the daemon notices nothing."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count

import psycopg
import pytest
from psycopg import sql

from brokerd.config.settings import Secret
from brokerd.errors import ConfigInvalid, StoreUnavailable
from brokerd.store.readers import _POLICIES, allow_reader

_numbers = count(1)
TABLES = sorted(_POLICIES)
_FILL = """
INSERT INTO brokerd.accounts (link_id, user_id, platform, login, server, currency, token,
  metaapi_account_id, region, desired, priority)
SELECT u, u, 'mt5', u, 'Demo', 'USD', 'main', 'm', 'london', 'live', 'normal'
FROM unnest(ARRAY['ann', 'bob']) AS u;
INSERT INTO brokerd.deals (account_id, deal_id, user_id, type, time, broker_time, profit,
  commission, swap, book, raw, content_hash, source, write_id)
SELECT account_id, '1', user_id, 'DEAL_TYPE_BUY', now(), '', 1, 0, 0, 'balance', '{}', 1, 'pull', 1
FROM brokerd.accounts;
INSERT INTO brokerd.deal_revisions (account_id, deal_id, revision, kind, replaced)
SELECT account_id, '1', 0, 'revised', '{}' FROM brokerd.accounts;
INSERT INTO brokerd.windows (account_id, start, "end", deals, content_hash, balance, credit)
SELECT account_id, now(), now() + interval '1 hour', 1, 1, 1, 0 FROM brokerd.accounts;
INSERT INTO brokerd.events (account_id, account_seq, link_id, user_id, type, payload)
SELECT account_id, 1, link_id, user_id, 'deal.added', '{}' FROM brokerd.accounts;
"""


def on(statement, table):
    """Name a table of the schema in a statement."""
    return sql.SQL(statement).format(sql.Identifier("brokerd", table))


@dataclass(frozen=True, kw_only=True)
class Roles:
    """A filled database, and a role to read it."""

    url: str
    role: str

    def as_owner(self, statement):
        """Run statements as the daemon's role."""
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def as_reader(self, statement, *, user_id=None):
        """Run one statement in a transaction of the reader's."""
        host = self.url.partition("?")[2]
        database = self.url.partition("@/")[2].partition("?")[0]
        url = f"postgresql://{self.role}:secret@/{database}?{host}"
        with psycopg.connect(url) as connection:
            if user_id is not None:
                connection.execute("SELECT set_config('brokerd.user_id', %s, true)", [user_id])
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def roles(database_url: str) -> Iterator[Roles]:
    """Give two users' ledgers and a fresh role."""
    made = Roles(url=database_url, role=f"reader-{next(_numbers)}")
    name = sql.Identifier(made.role)
    made.as_owner(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'secret'").format(name))
    made.as_owner(_FILL)
    yield made
    made.as_owner(sql.SQL("DROP OWNED BY {}").format(name))
    made.as_owner(sql.SQL("DROP ROLE {}").format(name))


async def test_a_reader_sees_its_user_alone(roles):
    """In every table, for each user, and nothing at all without the setting or with none named."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        roles.as_reader("SELECT 1 FROM brokerd.deals")
    await allow_reader(Secret(roles.url), roles.role)
    for table in TABLES:
        ((bob,),) = roles.as_owner("SELECT account_id FROM brokerd.accounts WHERE user_id = 'bob'")
        query = on("SELECT account_id FROM {}", table)
        assert roles.as_reader(query, user_id="bob") == [(bob,)]
        assert len(roles.as_reader(query, user_id="ann")) == 1
        for nobody in (None, "", "carl", "%"):
            assert roles.as_reader(query, user_id=nobody) == []


async def test_a_reader_changes_nothing(roles):
    """No statement that writes passes, not even on its own user's rows."""
    await allow_reader(Secret(roles.url), roles.role)
    for table in TABLES:
        for statement in (
            "DELETE FROM {}",
            "UPDATE {} SET account_id = DEFAULT",
            "INSERT INTO {} DEFAULT VALUES",
            "TRUNCATE {}",
            "SELECT account_id FROM {} FOR UPDATE",
            "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                roles.as_reader(on(statement, table), user_id="ann")


async def test_a_reader_reaches_nothing_else(roles):
    """Neither a partition by its name, nor a table or column that is none of a user's business."""
    await allow_reader(Secret(roles.url), roles.role)
    others = roles.as_owner(
        "SELECT relname FROM pg_class WHERE relnamespace = 'brokerd'::regnamespace"
        " AND relkind IN ('r', 'p')"
    )
    closed = {name for (name,) in others} - (set(TABLES) - {"accounts"})
    assert {"leases", "nodes", "deals_00", "accounts"} <= closed
    for name in closed:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            roles.as_reader(on("SELECT * FROM {}", name), user_id="ann")


async def test_the_daemon_s_own_role_is_not_affected(roles):
    """It sees and writes everything as before."""
    await allow_reader(Secret(roles.url), roles.role)
    for table in TABLES:
        assert roles.as_owner(on("SELECT count(*) FROM {}", table)) == [(2,)]
    roles.as_owner("UPDATE brokerd.deals SET profit = 5")
    assert roles.as_owner("SELECT sum(profit) FROM brokerd.deals") == [(10,)]


async def test_an_owner_that_is_no_superuser_is_not_affected(roles):
    """What protects the daemon is that it owns the tables, not that the tests' role may do all."""
    owner = sql.Identifier(f"{roles.role}-owner")
    await allow_reader(Secret(roles.url), roles.role)
    roles.as_owner(sql.SQL("CREATE ROLE {}").format(owner))
    try:
        roles.as_owner(sql.SQL("GRANT USAGE ON SCHEMA brokerd TO {}").format(owner))
        for table in TABLES:
            named = sql.Identifier("brokerd", table)
            roles.as_owner(sql.SQL("ALTER TABLE {} OWNER TO {}").format(named, owner))
            with psycopg.connect(roles.url) as connection:
                connection.execute(sql.SQL("SET ROLE {}").format(owner))
                counted = sql.SQL("SELECT count(*) FROM {}").format(named)
                assert connection.execute(counted).fetchall() == [(2,)]
    finally:
        roles.as_owner(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(owner))
        roles.as_owner(sql.SQL("DROP OWNED BY {}").format(owner))
        roles.as_owner(sql.SQL("DROP ROLE {}").format(owner))


async def test_it_may_be_repeated_and_for_several_roles(roles):
    """After an upgrade the same command is run again; a second role stands beside the first."""
    other = sql.Identifier(f'{roles.role} of "others"')
    roles.as_owner(sql.SQL("CREATE ROLE {}").format(other))
    try:
        for role in (roles.role, f'{roles.role} of "others"', roles.role):
            await allow_reader(Secret(roles.url), role)
        assert len(roles.as_reader("SELECT 1 FROM brokerd.deals", user_id="ann")) == 1
    finally:
        roles.as_owner(sql.SQL("DROP OWNED BY {}").format(other))
        roles.as_owner(sql.SQL("DROP ROLE {}").format(other))


@pytest.mark.parametrize("power", ["SUPERUSER", "BYPASSRLS", "IN ROLE brokerd"])
async def test_a_role_that_no_policy_binds_is_refused(roles, power):
    """Superusers, those who bypass policies, and members of the owner; nothing is changed."""
    role = f"{roles.role}-above"
    name = sql.Identifier(role)
    roles.as_owner(sql.SQL("CREATE ROLE {} " + power).format(name))
    try:
        with pytest.raises(ConfigInvalid, match=r"superuser or has BYPASSRLS|member of the role"):
            await allow_reader(Secret(roles.url), role)
        assert roles.as_owner("SELECT count(*) FROM pg_policies") == [(0,)]
    finally:
        roles.as_owner(sql.SQL("DROP ROLE {}").format(name))


@pytest.mark.parametrize(
    "grant",
    [
        "GRANT pg_read_all_data TO {}",
        "GRANT SELECT ON brokerd.deals_03 TO {}",
        "GRANT INSERT ON brokerd.deals TO {}",
        "GRANT SELECT ON brokerd.accounts TO {}",
    ],
)
async def test_a_role_with_other_rights_is_refused(roles, grant):
    """A partition read by its own name does not ask the policies; nothing is changed."""
    roles.as_owner(sql.SQL(grant).format(sql.Identifier(roles.role)))
    with pytest.raises(ConfigInvalid, match="has other rights, on brokerd"):
        await allow_reader(Secret(roles.url), roles.role)
    assert roles.as_owner("SELECT count(*) FROM pg_policies") == [(0,)]


async def test_a_role_that_is_not_there_is_refused(roles):
    """With what to do."""
    with pytest.raises(ConfigInvalid, match="CREATE ROLE"):
        await allow_reader(Secret(roles.url), "nobody-at-all")


async def test_an_old_schema_is_refused(roles):
    """Policies are put on the tables of this version."""
    roles.as_owner("UPDATE brokerd.alembic_version SET version_num = '0001'")
    with pytest.raises(ConfigInvalid, match="migrate"):
        await allow_reader(Secret(roles.url), roles.role)


async def test_a_server_that_is_away_is_told_without_the_url(roles):
    """The password stays a secret."""
    with pytest.raises(StoreUnavailable) as caught:
        await allow_reader(Secret("postgresql://brokerd:hunter2@127.0.0.1:1/x"), roles.role)
    assert "hunter2" not in repr(caught.value)


async def test_a_reader_s_page_is_served_by_the_index(roles):
    """The policy is a condition the index answers, not a filter over all users."""
    await allow_reader(Secret(roles.url), roles.role)
    roles.as_owner(
        "INSERT INTO brokerd.deals (account_id, deal_id, user_id, type, time, broker_time, profit,"
        " commission, swap, book, raw, content_hash, source, write_id)"
        " SELECT n, n::text, 'u' || n, 'DEAL_TYPE_BUY', now(), '', 1, 0, 0, 'balance', '{}', 1,"
        " 'pull', 1 FROM generate_series(100, 20000) AS n"
    )
    roles.as_owner("ANALYZE brokerd.deals")
    query = "EXPLAIN SELECT * FROM brokerd.deals ORDER BY time DESC LIMIT 10"
    plan = "\n".join(line for (line,) in roles.as_reader(query, user_id="ann"))
    assert "user_id_time_deal_id_idx" in plan
    assert "Index Cond: (user_id =" in plan
