"""What a link writes of itself in Postgres: each a single statement that carries its fence."""

from collections.abc import Callable, Mapping

import sqlalchemy as sa

from brokerd.domain import Backoff, Fence, LinkStatus, Priority
from brokerd.errors import Fenced, StoreUnavailable
from brokerd.ledger.feed import proof_event
from brokerd.ledger.payload import link_payload, proof_payload
from brokerd.store.engine import Database
from brokerd.store.tables import accounts, leases, links

_FENCE = sa.and_(
    leases.c.account_id == sa.bindparam("fenced_account"),
    leases.c.owner == sa.bindparam("fenced_owner"),
    leases.c.epoch == sa.bindparam("fenced_epoch"),
)

# What is told raises the account's head as the ledger's own statement does: only from what this
# snapshot shows. Another's event in between makes the report stale, and it is sent again; so an
# account's events are numbered in the order of their transactions.
_REPORT = sa.text("""
WITH mine AS MATERIALIZED (
  SELECT lease.account_id, link_id, user_id
  FROM brokerd.leases AS lease JOIN brokerd.accounts USING (account_id)
  WHERE lease.account_id = :fenced_account AND owner = :fenced_owner AND epoch = :fenced_epoch
  FOR SHARE OF lease
), before AS MATERIALIZED (
  SELECT phase, proof FROM brokerd.links WHERE account_id = :fenced_account
), news AS MATERIALIZED (
  SELECT 1 AS turn, 'link.changed' AS type, CAST(:link_payload AS jsonb) AS payload
  WHERE NOT EXISTS (SELECT 1 FROM before WHERE phase = :phase)
  UNION ALL
  SELECT 2, CAST(:proof_event AS text), CAST(:proof_payload AS jsonb)
  WHERE CAST(:proof_event AS text) IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM before WHERE proof = :proof)
), head AS (
  INSERT INTO brokerd.heads AS h (account_id, account_seq, writes)
  SELECT account_id, told.events, coalesce(known.writes, 0) + 1
  FROM mine LEFT JOIN brokerd.heads AS known USING (account_id),
    (SELECT count(*) AS events FROM news) AS told
  WHERE told.events > 0
  ON CONFLICT (account_id) DO UPDATE
    SET account_seq = h.account_seq + excluded.account_seq, writes = excluded.writes
    WHERE h.writes = excluded.writes - 1
  RETURNING h.account_id, h.account_seq
), fresh AS MATERIALIZED (
  SELECT mine.* FROM mine
  WHERE NOT EXISTS (SELECT 1 FROM news) OR EXISTS (SELECT 1 FROM head)
), told AS (
  INSERT INTO brokerd.events (generation, account_id, account_seq, link_id, user_id, type, payload)
  SELECT (SELECT brokerd.feed_generation()), account_id,
    account_seq + 1 - row_number() OVER (ORDER BY turn DESC) AS seq, link_id, user_id, type, payload
  FROM fresh JOIN head USING (account_id), news
  ORDER BY seq
), transition AS (
  INSERT INTO brokerd.link_transitions (account_id, at, phase, reason)
  SELECT account_id, :since, :phase, :reason FROM fresh
  WHERE NOT EXISTS (SELECT 1 FROM before WHERE phase = :phase)
), stored AS (
  INSERT INTO brokerd.links (account_id, phase, reason, message, observed_generation, since,
    next_attempt_at, attempt, user_action, proof, proof_detail, proven_at)
  SELECT account_id, :phase, :reason, :message, :observed_generation, :since,
    :next_attempt_at, :attempt, :user_action, :proof, :proof_detail, :proven_at
  FROM fresh
  ON CONFLICT (account_id) DO UPDATE SET
    phase = excluded.phase, reason = excluded.reason, message = excluded.message,
    observed_generation = excluded.observed_generation, since = excluded.since,
    next_attempt_at = excluded.next_attempt_at, attempt = excluded.attempt,
    user_action = excluded.user_action, proof = excluded.proof,
    proof_detail = excluded.proof_detail, proven_at = excluded.proven_at
)
SELECT (SELECT count(*) FROM mine) AS held, (SELECT count(*) FROM fresh) AS stored,
  (SELECT count(*) FROM head) AS told
""")
_STALE_ATTEMPTS = 5

# The account's row is locked before the lease's, as whoever changes a spec locks them.
_RECORD_MODES = sa.text("""
WITH account AS (
  SELECT account_id, coalesce(margin_mode, :margin_mode) AS margin_mode,
    coalesce(trade_mode, :trade_mode) AS trade_mode
  FROM brokerd.accounts WHERE account_id = :fenced_account FOR NO KEY UPDATE
), mine AS (
  SELECT account.* FROM account JOIN brokerd.leases AS lease USING (account_id)
  WHERE lease.owner = :fenced_owner AND lease.epoch = :fenced_epoch FOR SHARE OF lease
), stored AS (
  UPDATE brokerd.accounts AS row
  SET margin_mode = mine.margin_mode, trade_mode = mine.trade_mode
  FROM mine WHERE row.account_id = mine.account_id
    AND (row.margin_mode IS NULL OR row.trade_mode IS NULL)
)
SELECT margin_mode = :margin_mode AND trade_mode = :trade_mode FROM mine
""")


class PostgresLeases:
    """A `LeaseHandle` over the tables `leases`, `links` and `accounts`."""

    def __init__(
        self,
        database: Database,
        *,
        patience_seconds: Mapping[Priority, float],
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """Write to a database; `told` is called whenever there is something new in the feed."""
        self._database = database
        self._told = told
        self._release = _release(patience_seconds)

    async def report(self, fence: Fence, status: LinkStatus) -> None:
        """Store the status; when the phase or the proof changed, tell of it too."""
        values = _report(fence, status)
        for _ in range(_STALE_ATTEMPTS):
            async with self._database.statement() as connection:
                answer = (await connection.execute(_REPORT, values)).one()
            _require_held(answer.held)
            if answer.told:
                self._told()
            if answer.stored:
                return
        raise StoreUnavailable("other writes of the same account do not come to an end")

    async def release(self, fence: Fence, *, backoff: Backoff, delay_seconds: float) -> None:
        """Give the slot back; the link queues again once the delay passed."""
        await self._update(self._release, fence, backoff, delay_seconds=delay_seconds)

    async def finish(self, fence: Fence, *, generation: int) -> None:
        """Give the lease back; without an errand unless a newer spec set one."""
        values = {**_fence(fence), "done_generation": generation}
        async with self._database.statement() as connection:
            finished = await connection.execute(_FINISH, values)
        _require_held(finished.rowcount)

    async def save_backoff(self, fence: Fence, backoff: Backoff) -> None:
        """Store the backoff while the lease is kept."""
        await self._update(_SAVE_BACKOFF, fence, backoff)

    async def record_modes(self, fence: Fence, *, margin_mode: str, trade_mode: str) -> bool:
        """Store the modes at the first connect; say whether they are the stored ones."""
        async with self._database.statement() as connection:
            stored = await connection.execute(
                _RECORD_MODES,
                {**_fence(fence), "margin_mode": margin_mode, "trade_mode": trade_mode},
            )
        is_same = stored.scalar_one_or_none()
        _require_held(is_same is not None)
        return bool(is_same)

    async def _update(
        self, update: sa.Update, fence: Fence, backoff: Backoff, **seconds: float
    ) -> None:
        async with self._database.statement() as connection:
            updated = await connection.execute(
                update,
                {
                    **_fence(fence),
                    **seconds,
                    "new_attempt": backoff.attempt,
                    "new_bound": backoff.bound_seconds,
                },
            )
        _require_held(updated.rowcount)


_FINISH = (
    sa.update(leases)
    .where(_FENCE, accounts.c.account_id == leases.c.account_id)
    .values(
        owner=None,
        not_before=None,
        attempt=0,
        backoff_bound=0.0,
        queued_at=sa.func.now(),
        has_errand=sa.and_(
            leases.c.has_errand, accounts.c.generation > sa.bindparam("done_generation")
        ),
    )
)
_SAVE_BACKOFF = (
    sa.update(leases)
    .where(_FENCE)
    .values(attempt=sa.bindparam("new_attempt"), backoff_bound=sa.bindparam("new_bound"))
)


def _release(patience_seconds: Mapping[Priority, float]) -> sa.Update:
    """Build the release; `queue.deadlines.deadline_for` by the database's clock.

    A failed link has waited since it might have a slot again, not since it failed. One that was
    sent away keeps its deadline: a restart of its node must not put it behind everybody else. One
    whose spec changed unseen waits for nothing: the change may be what it needs. The account's
    row is locked for that before the lease's, as whoever changes a spec locks them.
    """
    account = (
        sa.select(
            accounts.c.account_id,
            accounts.c.priority,
            sa.func.coalesce(accounts.c.generation > links.c.observed_generation, sa.false()).label(
                "is_changed"
            ),
        )
        .outerjoin(links, links.c.account_id == accounts.c.account_id)
        .where(accounts.c.account_id == sa.bindparam("fenced_account"))
        .with_for_update(read=True, of=accounts)
        .cte("account")
    )
    delay = sa.bindparam("delay_seconds", type_=sa.Double)
    is_waiting = sa.and_(delay > 0, ~account.c.is_changed)
    patience = sa.case(
        {priority.value: seconds for priority, seconds in patience_seconds.items()},
        value=account.c.priority,
    )
    ready_at = sa.func.now() + _interval(delay)
    return _SAVE_BACKOFF.where(account.c.account_id == leases.c.account_id).values(
        owner=None,
        not_before=sa.case((is_waiting, ready_at)),
        deadline=sa.case(
            (is_waiting, ready_at + _interval(sa.cast(patience, sa.Double))),
            else_=leases.c.deadline,
        ),
        queued_at=sa.case((is_waiting, ready_at), else_=sa.func.now()),
    )


def _interval(seconds: sa.ColumnElement[float]) -> sa.ColumnElement[object]:
    return sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)


def _report(fence: Fence, status: LinkStatus) -> Mapping[str, object]:
    return {
        **_fence(fence),
        "phase": status.phase,
        "reason": status.reason,
        "message": status.message,
        "observed_generation": status.observed_generation,
        "since": status.since,
        "next_attempt_at": status.next_attempt_at,
        "attempt": status.attempt,
        "user_action": status.user_action,
        "proof": status.proof,
        "proof_detail": status.proof_detail,
        "proven_at": status.proven_at,
        "link_payload": link_payload(status),
        "proof_event": proof_event(status.proof),
        "proof_payload": proof_payload(status),
    }


def _fence(fence: Fence) -> dict[str, int]:
    return {
        "fenced_account": fence.account_id,
        "fenced_owner": fence.incarnation,
        "fenced_epoch": fence.epoch,
    }


def _require_held(rows: int) -> None:
    if not rows:
        raise Fenced("the lease is no longer ours")
