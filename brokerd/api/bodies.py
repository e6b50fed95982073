"""What goes over the wire: the structs of requests, answers and problems."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from brokerd.domain import (
    BadReason,
    Phase,
    Platform,
    Priority,
    Proof,
    QuarantineState,
    Source,
    UserAction,
)
from brokerd.health.conditions import ConditionType, Truth
from brokerd.ledger.feed import EventType

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._~@-]{0,127}$"
"""What may name a link or a user: safe in a path, and never a colon, which will part verbs."""

_PRINTABLE = r"^[!-~]([ -~]*[!-~])?$"
Id = Annotated[str, Meta(pattern=ID_PATTERN, max_length=128)]
Text = Annotated[str, Meta(pattern=_PRINTABLE, max_length=128)]
Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", max_length=64)]
Moment = Annotated[datetime, Meta(tz=True)]
Amount = Annotated[str, Meta(pattern=r"^-?[0-9]+(\.[0-9]+)?$")]
"""A decimal number as text, so that no reader makes a float of it."""

MAX_LABELS = 32
MAX_STALENESS_SECONDS = 31_536_000
MAX_PAGE = 1_000


class Body(
    msgspec.Struct,
    kw_only=True,
    rename="camel",
    forbid_unknown_fields=True,
):
    """What every body of ours has in common."""


class DesiredWord(StrEnum):
    """What a client may want today."""

    LIVE = "live"
    PAUSED = "paused"
    STOPPED = "stopped"


class MetaApiBody(Body):
    """Where MetaApi keeps the account; `token` is the name of a configured token.

    Without an `accountId` brokerd creates the account, with the password of PUT …/credentials.
    """

    token: Word
    account_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$", max_length=64)] | None
    region: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$", max_length=64)]


class IdentityBody(Body):
    """Which MetaTrader account the link is for; immutable."""

    platform: Platform
    login: Annotated[str, Meta(pattern=r"^[0-9]{1,20}$", max_length=20)]
    server: Text
    currency: Annotated[str, Meta(pattern=r"^[A-Za-z0-9]{2,10}$", max_length=10)]


class SpecBody(Body):
    """What a client asks of a link."""

    user_id: Id
    desired: DesiredWord
    metaapi: MetaApiBody
    identity: IdentityBody
    priority: Priority = Priority.NORMAL
    sync_from: Moment | None = None
    max_staleness_seconds: Annotated[int, Meta(ge=1, le=MAX_STALENESS_SECONDS)] | None = None
    labels: Annotated[
        dict[Word, Annotated[str, Meta(pattern=r"^[ -~]*$", max_length=256)]],
        Meta(max_length=MAX_LABELS),
    ] = {}


class PutBody(Body):
    """The body of PUT /v1/links/{id}."""

    spec: SpecBody


class MetadataBody(Body):
    """What brokerd keeps about a spec; `resourceVersion` is what If-Match compares."""

    generation: int
    resource_version: str
    created_at: Moment


class QueueBody(Body):
    """Where a waiting link stands; `position` 1 is next, as it was `positionAgeSeconds` ago."""

    position: int
    position_age_seconds: float
    waiting_seconds: float


class SyncBody(Body):
    """How much of the history is in the ledger, and whether it was proven."""

    watermark: Moment | None
    lag_seconds: float | None
    deals: int
    open_gaps: int
    balance_proof: Proof
    last_audit_at: Moment | None


class ConditionBody(Body):
    """One thing that is so, is not so, or is not known."""

    type: ConditionType
    status: Truth
    reason: str
    message: str
    last_transition_time: Moment
    observed_generation: int


class StatusBody(Body):
    """What is. Act on conditions; `phase` is for people."""

    observed_generation: int
    phase: Phase
    node: str | None
    lease_epoch: int
    since: Moment
    next_attempt_at: Moment | None
    attempt: int
    queue: QueueBody | None
    sync: SyncBody
    user_action: UserAction
    metaapi_account_id: str | None
    credential_version: int
    conditions: list[ConditionBody]


class LinkBody(Body):
    """A link: what is wanted and what is."""

    id: str
    metadata: MetadataBody
    spec: SpecBody
    status: StatusBody


class LinksBody(Body):
    """A page of links; `next` is the `after` of the next page, null at the end."""

    items: list[LinkBody]
    next: str | None


class DealBody(Body):
    """A deal of the ledger; money, price and volume are decimal strings."""

    deal_id: str
    link_id: str
    user_id: str
    type: str
    kind: str
    entry: str | None
    symbol: str | None
    volume: Amount | None
    price: Amount | None
    time: Moment
    broker_time: str
    profit: Amount
    commission: Amount
    swap: Amount
    order_id: str | None
    position_id: str | None
    revision: int
    source: Source
    committed_at: Moment


class DealsBody(Body):
    """A page of deals; `next` is the `after` of the next page, null at the end."""

    items: list[DealBody]
    next: str | None


class QuarantinedBody(Body):
    """A record that is no deal; `raw` is what came, with escapes for what no text can hold."""

    id: int
    link_id: str
    deal_id: str | None
    time: Moment | None
    source: Source
    reason: BadReason
    problem: str
    raw: str
    raw_bytes: int
    is_cut: bool
    state: QuarantineState
    times: int
    first_seen_at: Moment
    last_seen_at: Moment
    replay_asked_at: Moment | None
    closed_at: Moment | None
    note: str | None


class QuarantineBody(Body):
    """A page of the quarantine; `next` is the `after` of the next page, null at the end."""

    items: list[QuarantinedBody]
    next: str | None


class DiscardBody(Body):
    """Why a record says nothing that the ledger lacks."""

    note: Annotated[str, Meta(pattern=_PRINTABLE, max_length=500)]


class DayTotalsBody(Body):
    """What the deals of one link on one UTC day add up to, as decimal strings."""

    link_id: str
    user_id: str
    currency: str
    day: date
    deals: int
    trades: int
    volume: Amount
    profit: Amount
    commission: Amount
    swap: Amount
    balance: Amount
    credit: Amount


class TotalsBody(Body):
    """A page of totals; `next` is the `after` of the next page, null at the end."""

    items: list[DayTotalsBody]
    next: str | None


class EventBody(Body):
    """What happened to a deal, a link or its proof; `payload` is the deal, phase or proof.

    `id` never changes. An account's events are ordered by `generation` and `accountSeq`.
    """

    id: str
    type: EventType
    link_id: str
    user_id: str
    generation: int
    account_seq: int
    deal_id: str | None
    revision: int | None
    at: Moment
    payload: msgspec.Raw


class EventsBody(Body):
    """Events in order; `next` is the `after` of the next call, and there always is one."""

    items: list[msgspec.Raw]
    next: str


class RelistBody(Body):
    """Events between the client's cursor and `next` are gone: list deals and links again."""

    reason: str
    next: str


class ViolationBody(Body):
    """What is wrong with one place of a request."""

    path: str
    message: str


class ProblemBody(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """An error as RFC 9457 has it; `type` is stable, `requestId` finds it in our log."""

    type: str
    title: str
    status: int
    request_id: str
    retryable: bool
    reason: str
    detail: str = ""
    retry_after_seconds: float | None = None
    link_id: str | None = None
    violations: list[ViolationBody] = []


class ReadyBody(Body):
    """Whether this node serves; until then at which stage it is."""

    ready: bool
    stage: str


class EnteredBody(Body):
    """When a link entered a phase, and why."""

    at: Moment
    phase: Phase
    reason: str


class UptimeBody(Body):
    """What was expected of a link and what it was; `ratio` is null where nothing was expected."""

    ratio: float | None
    live_seconds: float
    expected_seconds: float


class ExplainBody(Body):
    """A link's story for people; programs act on conditions."""

    link_id: str
    phase: Phase
    since: Moment
    wanted: str
    now: str
    next_step: str
    next_at: Moment | None
    user_action: UserAction
    blocked_by: list[str]
    would_change: list[str]
    uptime: dict[str, UptimeBody]
    transitions: list[EnteredBody]
