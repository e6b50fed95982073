"""What clients are shown: records of the registry and the ledger turned into bodies; pure."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from brokerd.api.bodies import (
    ConditionBody,
    DayTotalsBody,
    DealBody,
    DealsBody,
    DesiredWord,
    IdentityBody,
    LinkBody,
    LinksBody,
    MetaApiBody,
    MetadataBody,
    QuarantineBody,
    QuarantinedBody,
    QueueBody,
    SpecBody,
    StatusBody,
    SyncBody,
    TotalsBody,
)
from brokerd.api.cursor import deal_cursor, link_cursor, quarantine_cursor, totals_cursor
from brokerd.api.ports import (
    DayTotals,
    LinkRecord,
    QuarantinedRecord,
    QueuePlace,
    StoredDeal,
    TotalsQuery,
)
from brokerd.domain import LinkSpec, Proof
from brokerd.health.calendar import Calendar
from brokerd.health.conditions import Condition, Facts, conditions, shown
from brokerd.store.place import named_id


def etag(generation: int) -> str:
    """Return the entity tag that If-Match compares."""
    return f'"{generation}"'


def link_body(record: LinkRecord, *, calendar: Calendar) -> LinkBody:
    """Show a link."""
    return LinkBody(
        id=record.link_id,
        metadata=MetadataBody(
            generation=record.generation,
            resource_version=str(record.generation),
            created_at=record.created_at,
        ),
        spec=_spec(record.spec),
        status=_status(record, calendar),
    )


def links_page(records: Sequence[LinkRecord], *, limit: int, calendar: Calendar) -> LinksBody:
    """Show a page of links; a full page may have a next one."""
    is_full = len(records) == limit
    return LinksBody(
        items=[link_body(record, calendar=calendar) for record in records],
        next=link_cursor(records[-1].link_id) if is_full and records else None,
    )


def deals_page(deals: Sequence[StoredDeal], *, limit: int) -> DealsBody:
    """Show a page of deals; a full page may have a next one."""
    is_full = len(deals) == limit
    return DealsBody(
        items=[_deal(stored) for stored in deals],
        next=deal_cursor(deals[-1]) if is_full and deals else None,
    )


def quarantine_page(records: Sequence[QuarantinedRecord], *, limit: int) -> QuarantineBody:
    """Show a page of the quarantine; a full page may have a next one."""
    is_full = len(records) == limit
    return QuarantineBody(
        items=[quarantined_body(each) for each in records],
        next=quarantine_cursor(records[-1].quarantine_id) if is_full and records else None,
    )


def quarantined_body(record: QuarantinedRecord) -> QuarantinedBody:
    """Show a record that is no deal."""
    bad = record.record
    return QuarantinedBody(
        id=record.quarantine_id,
        link_id=record.link_id,
        deal_id=bad.deal_id,
        time=bad.time,
        source=record.source,
        reason=bad.reason,
        problem=bad.problem,
        raw=bad.raw,
        raw_bytes=bad.raw_bytes,
        is_cut=bad.is_cut,
        state=record.state,
        times=record.times,
        first_seen_at=record.first_seen_at,
        last_seen_at=record.last_seen_at,
        replay_asked_at=record.replay_asked_at,
        closed_at=record.closed_at,
        note=record.note,
    )


def totals_page(totals: Sequence[DayTotals], *, wanted: TotalsQuery) -> TotalsBody:
    """Show a page of totals; a full page may have a next one."""
    return TotalsBody(
        items=[_day(each) for each in totals],
        next=totals_cursor(totals[-1]) if totals and wanted.is_full(totals) else None,
    )


def _spec(spec: LinkSpec) -> SpecBody:
    return SpecBody(
        user_id=spec.user_id,
        desired=DesiredWord(spec.desired),
        priority=spec.priority,
        metaapi=MetaApiBody(
            token=spec.metaapi.token,
            account_id=named_id(spec.metaapi),
            region=spec.metaapi.region,
        ),
        identity=IdentityBody(
            platform=spec.identity.platform,
            login=spec.identity.login,
            server=spec.identity.server,
            currency=spec.identity.currency,
        ),
        sync_from=spec.sync_from,
        max_staleness_seconds=spec.max_staleness_seconds,
        labels=dict(spec.labels),
    )


def facts_of(record: LinkRecord, calendar: Calendar) -> Facts:
    """Gather what conditions are made of, as it was when the record was read."""
    return Facts(
        status=record.status,
        desired=record.spec.desired,
        is_owned=record.owner is not None,
        is_deleted=record.is_deleted,
        queued_at=record.queued_at,
        not_before=record.not_before,
        waiting_seconds=record.queue.waiting_seconds if record.queue else None,
        open_gaps=record.open_gaps,
        is_market_open=calendar.is_open(record.spec.identity.server, record.read_at),
        has_errand=record.has_errand,
    )


def _status(record: LinkRecord, calendar: Calendar) -> StatusBody:
    facts = facts_of(record, calendar)
    now = shown(facts)
    is_reported = now.phase is record.status.phase
    return StatusBody(
        observed_generation=record.status.observed_generation,
        phase=now.phase,
        node=record.owner_name,
        lease_epoch=record.epoch,
        since=now.since,
        next_attempt_at=record.status.next_attempt_at if is_reported else None,
        attempt=record.status.attempt,
        queue=_queue(record.queue) if record.queue else None,
        sync=_sync(record),
        user_action=record.status.user_action,
        metaapi_account_id=named_id(record.spec.metaapi) or record.created_id,
        credential_version=record.credential_version,
        conditions=[_condition(each) for each in conditions(facts)],
    )


def _queue(place: QueuePlace) -> QueueBody:
    return QueueBody(
        position=place.position,
        position_age_seconds=round(place.age_seconds, 3),
        waiting_seconds=round(place.waiting_seconds, 3),
    )


def _sync(record: LinkRecord) -> SyncBody:
    return SyncBody(
        watermark=record.watermark,
        lag_seconds=_lag_seconds(record.watermark, record.read_at),
        deals=record.deals,
        open_gaps=record.open_gaps,
        balance_proof=Proof.UNKNOWN if record.open_gaps else record.status.proof,
        last_audit_at=record.status.proven_at,
    )


def _lag_seconds(watermark: datetime | None, read_at: datetime) -> float | None:
    if watermark is None:
        return None
    return max(0.0, round((read_at - watermark).total_seconds(), 3))


def _condition(condition: Condition) -> ConditionBody:
    return ConditionBody(
        type=condition.type,
        status=condition.status,
        reason=condition.reason,
        message=condition.message,
        last_transition_time=condition.last_transition_at,
        observed_generation=condition.observed_generation,
    )


def _deal(stored: StoredDeal) -> DealBody:
    deal = stored.deal
    return DealBody(
        deal_id=deal.deal_id,
        link_id=stored.link_id,
        user_id=stored.user_id,
        type=deal.type,
        kind="trade" if deal.is_trade else "cash",
        entry=deal.entry,
        symbol=deal.symbol,
        volume=None if deal.volume is None else amount(deal.volume),
        price=None if deal.price is None else amount(deal.price),
        time=deal.time,
        broker_time=deal.broker_time,
        profit=amount(deal.profit),
        commission=amount(deal.commission),
        swap=amount(deal.swap),
        order_id=deal.order_id,
        position_id=deal.position_id,
        revision=stored.revision,
        source=stored.source,
        committed_at=stored.committed_at,
    )


def _day(totals: DayTotals) -> DayTotalsBody:
    return DayTotalsBody(
        link_id=totals.link_id,
        user_id=totals.user_id,
        currency=totals.currency,
        day=totals.day,
        deals=totals.deals,
        trades=totals.trades,
        volume=amount(totals.volume),
        profit=amount(totals.profit),
        commission=amount(totals.commission),
        swap=amount(totals.swap),
        balance=amount(totals.balance),
        credit=amount(totals.credit),
    )


def amount(value: Decimal) -> str:
    """Write a number in full, without exponent and trailing zeros."""
    return f"{value.normalize():f}" if value else "0"
