"""What the registry writes: the rows of a registration, and the end of a link."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from brokerd.api import postgres_rows as rows
from brokerd.api.registration import Put, Registered, Registration
from brokerd.domain import AccountId
from brokerd.store.tables import accounts, credentials, leases, link_transitions, links


async def find(
    connection: AsyncConnection, *conditions: sa.ColumnElement[bool]
) -> Sequence[Registered]:
    """Lock and read accounts with their leases, account before lease, in the accounts' order."""
    query = rows.REGISTERED.where(*conditions).order_by(accounts.c.account_id)
    locked = query.with_for_update(of=[accounts, leases])
    return [rows.registered(row) for row in (await connection.execute(locked)).all()]


async def write(connection: AsyncConnection, put: Put, decided: Registration) -> AccountId:
    """Carry out what was decided; return the account."""
    if decided.account_id is not None and not decided.is_changed:
        return decided.account_id
    values = {**rows.account_values(put.link_id, put.spec), "generation": decided.generation}
    waiting = rows.lease_values(decided.waiting)
    if decided.account_id is None:
        made = await connection.execute(
            sa.insert(accounts).values(values).returning(accounts.c.account_id)
        )
        account_id = AccountId(made.scalar_one())
        await connection.execute(sa.insert(leases).values(account_id=account_id, **waiting))
    else:
        account_id = decided.account_id
        values |= {
            "updated_at": sa.func.clock_timestamp(),
            "deleted_at": None,
            "removes_remote": False,
            **({"auth": "ok", "auth_at": None} if decided.forgets_auth else {}),
            **({"created_account_id": None} if decided.forgets_created else {}),
        }
        await connection.execute(
            sa.update(accounts).where(accounts.c.account_id == account_id).values(values)
        )
        await connection.execute(
            sa.update(leases).where(leases.c.account_id == account_id).values(waiting)
        )
    if not decided.is_owned:
        await _write_status(connection, account_id, decided)
    return account_id


async def _write_status(
    connection: AsyncConnection, account_id: AccountId, decided: Registration
) -> None:
    """Say of a link that nobody runs that its newest spec is observed, and where it rests."""
    seen: Mapping[str, object] = {"observed_generation": decided.generation}
    if decided.entered is None:
        mine = links.c.account_id == account_id
        await connection.execute(sa.update(links).where(mine).values(seen))
        return
    now = sa.func.clock_timestamp()
    reason = decided.entered.capitalize()
    status = {
        **seen,
        "phase": decided.entered,
        "reason": reason,
        "message": "",
        "since": now,
        "next_attempt_at": None,
        "attempt": decided.waiting.backoff.attempt,
        "user_action": "none",
    }
    await connection.execute(
        insert(links)
        .values(account_id=account_id, **status)
        .on_conflict_do_update(index_elements=[links.c.account_id], set_=status)
    )
    await connection.execute(
        sa.insert(link_transitions).values(
            account_id=account_id, phase=decided.entered, reason=reason
        )
    )


async def end(connection: AsyncConnection, living: Registered, *, removes_remote: bool) -> None:
    """Mark a link as deleted: nobody will run it again; whoever runs it now must leave.

    A password that still waits is erased: nothing will ask for it.
    """
    mine = accounts.c.account_id == living.account_id
    await connection.execute(
        sa.update(accounts)
        .where(mine)
        .values(
            deleted_at=sa.func.clock_timestamp(),
            updated_at=sa.func.clock_timestamp(),
            generation=accounts.c.generation + 1,
            removes_remote=removes_remote,
        )
    )
    at_once: Mapping[str, object] = {"has_errand": True, "not_before": None}
    await connection.execute(
        sa.update(leases)
        .where(leases.c.account_id == living.account_id)
        .values({"is_wanted": False, **(at_once if removes_remote else {})})
    )
    await connection.execute(
        sa.update(credentials)
        .where(credentials.c.account_id == living.account_id, credentials.c.sealed.is_not(None))
        .values(sealed=None)
    )
