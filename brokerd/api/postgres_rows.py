"""How the registry's rows are read: one query, and the values made of its columns."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from brokerd.api.ports import LinkRecord, QueuePlace
from brokerd.api.registration import Registered, Waiting
from brokerd.domain import (
    AccountId,
    Backoff,
    Desired,
    Identity,
    Incarnation,
    LinkId,
    LinkSpec,
    LinkStatus,
    Phase,
    Platform,
    Priority,
    Proof,
    UserAction,
    UserId,
)
from brokerd.store.place import named_id, place_of
from brokerd.store.tables import accounts, deals, heads, leases, links, nodes, quarantine, windows

Row = sa.Row[tuple[object, ...]]

_SPEC = [
    accounts.c[name]
    for name in (
        *("account_id", "link_id", "user_id", "platform", "login", "server", "currency", "token"),
        *("metaapi_account_id", "region", "desired", "priority", "sync_from"),
        *("max_staleness_seconds", "labels", "generation", "created_at", "deleted_at"),
        *("created_account_id", "credential_version"),
    )
]
_LEASE = [
    *(leases.c[name] for name in ("owner", "epoch", "is_wanted", "deadline", "queued_at")),
    leases.c.not_before,
    leases.c.has_errand,
    leases.c.attempt.label("lease_attempt"),
    leases.c.backoff_bound,
]
_STATUS = [column for column in links.c if column.name != "account_id"]
_NOW = sa.func.clock_timestamp().label("read_at")

# Closed windows know how many deals they hold; only what lies behind the watermark is counted.
_DEALS = (
    sa.select(sa.func.coalesce(sa.func.sum(windows.c.deals), 0).cast(sa.BigInteger))
    .where(windows.c.account_id == accounts.c.account_id)
    .scalar_subquery()
    + sa.select(sa.func.count())
    .where(
        deals.c.account_id == accounts.c.account_id,
        deals.c.removed_at.is_(None),
        deals.c.time >= sa.func.coalesce(heads.c.watermark, sa.text("'-infinity'::timestamptz")),
    )
    .scalar_subquery()
).label("deals")

_OPEN_GAPS = (
    sa.select(sa.func.count())
    .where(quarantine.c.account_id == accounts.c.account_id)
    .where(quarantine.c.state == sa.literal_column("'open'"))  # as the partial index has it
    .scalar_subquery()
).label("open_gaps")

_WITH_LEASE = accounts.join(leases, leases.c.account_id == accounts.c.account_id)

REGISTERED: sa.Select[tuple[object, ...]] = sa.select(*_SPEC, *_LEASE, _NOW).select_from(
    _WITH_LEASE
)
"""An account with its lease; add a condition."""

RECORDS: sa.Select[tuple[object, ...]] = sa.select(
    *_SPEC,
    *_LEASE,
    *_STATUS,
    _NOW,
    _DEALS,
    _OPEN_GAPS,
    heads.c.watermark,
    nodes.c.name.label("owner_name"),
).select_from(
    _WITH_LEASE.join(links, links.c.account_id == accounts.c.account_id)
    .outerjoin(heads, heads.c.account_id == accounts.c.account_id)
    .outerjoin(nodes, nodes.c.incarnation == leases.c.owner)
)
"""All that a link's page shows; add a condition."""

IS_VISIBLE = sa.or_(
    accounts.c.deleted_at.is_(None), leases.c.owner.is_not(None), leases.c.has_errand
)
"""Neither deleted nor, if deleted, fully drained and put away."""


def registered(row: Row) -> Registered:
    """Make the value a PUT decides upon."""
    return Registered(
        account_id=AccountId(row.account_id),
        link_id=LinkId(row.link_id),
        spec=_spec(row),
        generation=row.generation,
        is_deleted=row.deleted_at is not None,
        is_owned=row.owner is not None,
        waiting=Waiting(
            is_wanted=row.is_wanted,
            deadline=_utc(row.deadline),
            queued_at=_utc(row.queued_at),
            not_before=_utc_or_none(row.not_before),
            backoff=Backoff(attempt=row.lease_attempt, bound_seconds=row.backoff_bound),
            has_errand=row.has_errand,
        ),
    )


def is_ready(row: Row) -> bool:
    """Say whether a link may be claimed now."""
    is_queued: bool = row.owner is None and row.is_wanted
    return is_queued and (row.not_before is None or row.not_before <= row.read_at)


def record(row: Row, queue: QueuePlace | None) -> LinkRecord:
    """Make the value a client sees."""
    return LinkRecord(
        link_id=LinkId(row.link_id),
        spec=_spec(row),
        generation=row.generation,
        created_at=_utc(row.created_at),
        is_deleted=row.deleted_at is not None,
        status=_status(row),
        owner=None if row.owner is None else Incarnation(row.owner),
        owner_name=row.owner_name,
        epoch=row.epoch,
        watermark=_utc_or_none(row.watermark),
        deals=row.deals,
        open_gaps=row.open_gaps,
        queued_at=_utc(row.queued_at),
        not_before=_utc_or_none(row.not_before),
        has_errand=row.has_errand,
        created_id=row.created_account_id,
        credential_version=row.credential_version,
        queue=queue,
        read_at=_utc(row.read_at),
    )


def account_values(link_id: LinkId, spec: LinkSpec) -> Mapping[str, object]:
    """Return the columns of table `accounts` that a spec decides."""
    return {
        "link_id": link_id,
        "user_id": spec.user_id,
        "platform": spec.identity.platform,
        "login": spec.identity.login,
        "server": spec.identity.server,
        "currency": spec.identity.currency,
        "token": spec.metaapi.token,
        "metaapi_account_id": named_id(spec.metaapi),
        "region": spec.metaapi.region,
        "desired": spec.desired,
        "priority": spec.priority,
        "sync_from": spec.sync_from,
        "max_staleness_seconds": spec.max_staleness_seconds,
        "labels": dict(spec.labels),
    }


def lease_values(waiting: Waiting) -> Mapping[str, object]:
    """Return the columns of table `leases` that a spec decides."""
    return {
        "is_wanted": waiting.is_wanted,
        "deadline": waiting.deadline,
        "queued_at": waiting.queued_at,
        "not_before": waiting.not_before,
        "attempt": waiting.backoff.attempt,
        "backoff_bound": waiting.backoff.bound_seconds,
        "has_errand": waiting.has_errand,
    }


def ready_turns(rows: Sequence[Row]) -> Sequence[tuple[datetime, AccountId]]:
    """Return the sort keys of the queue in their order."""
    return [(_utc(row.deadline), AccountId(row.account_id)) for row in rows]


def _spec(row: Row) -> LinkSpec:
    return LinkSpec(
        user_id=UserId(row.user_id),
        desired=Desired(row.desired),
        priority=Priority(row.priority),
        metaapi=place_of(row.token, row.metaapi_account_id, row.region),
        identity=Identity(
            platform=Platform(row.platform),
            login=row.login,
            server=row.server,
            currency=row.currency,
        ),
        sync_from=_utc_or_none(row.sync_from),
        max_staleness_seconds=row.max_staleness_seconds,
        labels=row.labels,
    )


def _status(row: Row) -> LinkStatus:
    return LinkStatus(
        phase=Phase(row.phase),
        reason=row.reason,
        message=row.message,
        observed_generation=row.observed_generation,
        since=_utc(row.since),
        next_attempt_at=_utc_or_none(row.next_attempt_at),
        attempt=row.attempt,
        user_action=UserAction(row.user_action),
        proof=Proof(row.proof),
        proof_detail=row.proof_detail,
        proven_at=_utc_or_none(row.proven_at),
    )


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _utc_or_none(moment: datetime | None) -> datetime | None:
    return None if moment is None else _utc(moment)
