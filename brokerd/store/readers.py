"""Roles that read the ledger past brokerd: each session sees one user's rows, and changes none.

Row-level security binds everybody but the tables' owner, which is the daemon's role. Granted is on
the parents alone: a partition, read by its own name, would not ask the parent's policies.
"""

import psycopg
from psycopg import sql

from brokerd.config.settings import Secret
from brokerd.errors import ConfigInvalid, StoreUnavailable
from brokerd.store.engine import conninfo, unavailability
from brokerd.store.migrate import check

SETTING = "brokerd.user_id"
_CONNECT_SECONDS = 5

_ROLE = """
SELECT rolsuper OR rolbypassrls AS is_above,
  pg_has_role(oid, (SELECT relowner FROM pg_class WHERE oid = 'brokerd.deals'::regclass), 'MEMBER')
    AS is_owner
FROM pg_roles WHERE rolname = %s
"""
_EXCESS = """
SELECT 'brokerd.' || relname FROM pg_class
WHERE relnamespace = 'brokerd'::regnamespace AND relkind IN ('r', 'p')
  AND (has_table_privilege(%(role)s, oid, 'INSERT, UPDATE, DELETE, TRUNCATE')
    OR (has_table_privilege(%(role)s, oid, 'SELECT') AND relname <> ALL(%(granted)s)))
ORDER BY 1 LIMIT 3
"""
# The setting is read once per statement, not once per row.
_IS_THEIRS = sql.SQL("user_id = (SELECT current_setting({}, true))").format(SETTING)
_IS_ACCOUNT_OF_THEIRS = sql.SQL(
    "account_id IN (SELECT account_id FROM brokerd.accounts WHERE {})"
).format(_IS_THEIRS)
_POLICIES = {
    "accounts": _IS_THEIRS,
    "deals": _IS_THEIRS,
    "events": _IS_THEIRS,
    "windows": _IS_ACCOUNT_OF_THEIRS,
    "deal_revisions": _IS_ACCOUNT_OF_THEIRS,
}
_ACCOUNT_COLUMNS = sql.SQL("account_id, link_id, user_id, platform, login, server, currency")


async def allow_reader(url: Secret, role: str) -> None:
    """Let an existing role read the ledger of one user at a time; all of it or nothing.

    Needs the role that owns the tables. May be repeated. Raises `ConfigInvalid` for a role that
    is not there or that no policy would bind, and `StoreUnavailable`.
    """
    await check(url)
    try:
        connection = await psycopg.AsyncConnection.connect(
            conninfo(url), connect_timeout=_CONNECT_SECONDS, prepare_threshold=None
        )
        async with connection:
            await _require_bound(connection, role)
            for statement in _statements(role):
                await connection.execute(statement)
            await _require_no_more(connection, role)
    except psycopg.Error as error:
        reason = unavailability(error)
        if reason is None:
            raise
        raise StoreUnavailable(f"Postgres cannot be used: {reason}") from error


async def _require_bound(connection: psycopg.AsyncConnection, role: str) -> None:
    """Refuse a role that row-level security would not bind."""
    found = await (await connection.execute(_ROLE, [role])).fetchone()
    if found is None:
        raise ConfigInvalid([f"there is no role {role}: create it first, with CREATE ROLE"])
    is_above, is_owner = found
    if is_above:
        raise ConfigInvalid([f"{role} is a superuser or has BYPASSRLS: no policy binds it"])
    if is_owner:
        raise ConfigInvalid([f"{role} is a member of the role that owns the tables"])


async def _require_no_more(connection: psycopg.AsyncConnection, role: str) -> None:
    """Refuse a role whose other rights reach past the policies, as those on partitions do."""
    granted = [name for name in _POLICIES if name != "accounts"]
    found = await connection.execute(_EXCESS, {"role": role, "granted": granted})
    names = ", ".join(name for (name,) in await found.fetchall())
    if names:
        problem = f"{role} has other rights, on {names}: revoke them, or use a role without"
        raise ConfigInvalid([problem])


def _statements(role: str) -> list[sql.Composed]:
    reader = sql.Identifier(role)
    found = [
        sql.SQL("GRANT USAGE ON SCHEMA brokerd TO {}").format(reader),
        sql.SQL("GRANT SELECT ({}) ON brokerd.accounts TO {}").format(_ACCOUNT_COLUMNS, reader),
    ]
    for name, condition in _POLICIES.items():
        table = sql.Identifier("brokerd", name)
        found += [
            sql.SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(table),
            sql.SQL("DROP POLICY IF EXISTS {} ON {}").format(reader, table),
            sql.SQL("CREATE POLICY {} ON {} FOR SELECT TO {} USING ({})").format(
                reader, table, reader, condition
            ),
        ]
        if name != "accounts":
            found.append(sql.SQL("GRANT SELECT ON {} TO {}").format(table, reader))
    return found
