"""Everything an operator can set: frozen, units in the names, the reason beside the default."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from brokerd.domain import Priority


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A value that never shows itself: no repr, no str, no format."""

    _value: str

    def reveal(self) -> str:
        """Return the secret itself; call it only where it leaves for its one reader."""
        return self._value

    def __repr__(self) -> str:
        """Show that there is a secret, and nothing of it."""
        return "Secret(…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaApiSettings:
    """How to reach MetaApi.

    The three URLs are derived from `domain` when unset; set them to point each service at any
    server over plain http (our sandbox).
    """

    tokens: Mapping[str, Secret]  # by name; a link's spec names the one to use
    domain: str = "agiliumtrade.agiliumtrade.ai"
    provisioning_url: str | None = None
    client_url: str | None = None  # `{region}` in it is replaced
    stream_url: str | None = None
    request_timeout_seconds: float = 20.0  # per REST attempt, and the SDK's requestTimeout
    request_attempts: int = 3  # tenacity's bound for one REST call
    requests_per_second: int = 20  # node; MetaApi's shared servers allow 14 to 25 history calls
    socket_opens_per_second: int = 2  # a socket carries 100 accounts; more is a stampede
    admissions_per_second: int = 10  # links opened per second; a sync costs the loop 16 to 80 ms
    connect_timeout_seconds: float = 20.0
    session_buffer_events: int = 10_000  # per link; full = the link is marked for a pull
    canary_links: int = 10  # of one broker server; then their specifications are told by hash


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorSettings:
    """What MetaApi may be asked, of all nodes together; a limit of 0 is not kept.

    MetaApi does not publish its limits; these are the lowest that were seen (metaapi.md 3.2).
    """

    user_credits_per_second: int = 1_000  # of a token, times its deployed accounts
    user_credits_per_minute: int = 6_000
    user_credits_per_hour: int = 18_000
    user_credits_per_six_hours: int = 43_200
    server_credits_per_second: int = 2_000  # of a region
    account_credits_per_ten_seconds: int = 5_000
    call_credits: int = 50  # what a call costs
    history_credits: int = 75  # what a page of history costs
    item_credits: float = 0.65  # and each record on it
    provisioning_requests_per_minute: int = 600  # of a token; a guess, nothing is known
    fleet_socket_opens_per_second: int = 25  # each node is bounded by the metaapi section
    even_share_ratio: float = 0.5  # of each limit goes evenly to the nodes, the rest is drawn from
    longest_wait_seconds: float = 10.0  # for a turn; whose turn comes later is told so at once
    breaker_callers: int = 5  # that fail in a row, until nothing is sent to a service any more
    breaker_first_seconds: float = 1.0  # until it is probed; doubled while that fails
    breaker_longest_seconds: float = 60.0
    refused_probe_seconds: float = 900.0  # between probes of a bad token or an empty balance
    node_count_seconds: float = 5.0  # how old the number of live nodes may be
    quota_seconds: float = 3_600.0  # between readings of MetaApi's quotas
    quota_warning_ratio: float = 0.1  # warn when less of a quota is left


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """How one link lives (design.md 7)."""

    report_seconds: float = 10.0  # a phase the store takes no sooner is told with the next one
    connect_timeout_seconds: float = 60.0
    verify_timeout_seconds: float = 15.0
    sync_stall_seconds: float = 120.0  # a sync without progress for so long has failed
    suspect_seconds: float = 20.0  # silent for so long, a stream that beats faster is suspect
    silence_seconds: float = 60.0  # silent for so long, every stream is; MetaApi's own limit
    probe_seconds: float = 4.0  # one look over REST at a suspect; with it 25 s decide
    stream_overlap_seconds: float = 60.0  # what the SDK is asked to replay
    reconnect_overlap_seconds: float = 900.0  # what a pull after a reconnect reads again
    rolling_overlap_seconds: float = 259_200.0  # 72 h: late and edited deals
    rolling_interval_seconds: float = 300.0  # between two rolling pulls of a live link
    pull_pages: int = 20  # of 1,000 deals, until a long history closes a window and goes on
    verify_interval_seconds: float = 43_200.0  # between re-reads of old windows, one at a time
    max_long_pulls: int = 4  # of this node at once; they would crowd the others out
    removal_recheck_seconds: float = 600.0  # between the pulls that must agree a deal is gone
    quarantine_blocks: bool = False  # whether an unreadable deal stops the watermark
    proof_interval_seconds: float = 86_400.0  # between balance proofs of a live link
    proof_retry_seconds: float = 60.0  # between the three mismatches that make it False
    broker_away_seconds: float = 3_600.0  # then, in session, a restart asks for the credentials
    backoff_base_seconds: float = 1.0
    backoff_ceiling_seconds: float = 300.0
    backoff_hold_seconds: float = 30.0  # up to so long a wait keeps the slot
    stable_seconds: float = 300.0  # live for so long resets the backoff
    blocked_recheck_seconds: float = 900.0  # a refused link looks again so often
    close_timeout_seconds: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisioningSettings:
    """How MetaApi accounts are created, deployed, undeployed and removed."""

    account_type: str = "cloud-g2"  # what we create; MetaApi's own default
    reliability: str = "high"  # two terminals; MetaApi advises it for production
    timeout_seconds: float = 600.0  # from a call to a deployed account; MetaApi needs 1 to 3 min
    poll_seconds: float = 5.0  # between two lists of what is in transition, one for all links
    create_retry_seconds: float = 60.0  # between two questions, where MetaApi names no time
    confirm_seconds: float = 900.0  # until refused credentials of a live link are tried once more
    recent_seconds: float = 604_800.0  # how lately such a link must have been live
    failed_deploy_retry_seconds: float = 21_600.0  # six hours: what each start is billed for
    refusal_memory_seconds: float = 86_400.0  # how long a refusal is believed without asking
    rejected_memory_seconds: float = 2_592_000.0  # likewise credentials the broker refused
    abandon_seconds: float = 900.0  # then an account nobody wants any more is not created late


@dataclass(frozen=True, slots=True, kw_only=True)
class MoneySettings:
    """What MetaApi charges, in US dollars without tax; its list prices for cloud-g2."""

    add_usd: float = 2.10  # an account, once; sources differ on adding it again, so: each time
    deployment_usd: float = 0.072  # each start, which is six hours
    failed_attempt_usd: float = 0.105  # refused credentials or undetected broker settings
    deployed_hour_usd: float = 0.012  # per resource slot; high reliability takes two


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """What may be spent on chargeable attempts before somebody looks; windows slide."""

    link_attempts: int = 6  # of one link in a day: an add, a start or two, a few wrong passwords
    link_usd: float = 5.0
    user_attempts: int = 20  # of all links of one user in a day
    user_usd: float = 25.0
    day_attempts: int = 2_000  # of the whole fleet in a day
    day_usd: float = 500.0
    fleet_attempts: int = 20_000  # of the whole fleet in thirty days
    fleet_usd: float = 5_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsSettings:
    """The keys that seal passwords while they wait. Without keys no password is taken."""

    keys: Mapping[str, Secret] = field(default_factory=dict)  # by id; old ones still open
    current: str = ""  # the id of the key that seals from now on


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How many links this node runs. Zero serves the API alone."""

    max_links: int = 300
    heartbeat_seconds: float = 3.0
    freeze_seconds: float = 10.0  # without a confirmed heartbeat nothing new is opened
    lease_seconds: float = 15.0  # others may bury us after so long a silence
    hold_seconds: float = 900.0  # a frozen node closes its sessions after so long
    poll_seconds: float = 1.0  # claims and spec changes; a hint wakes it earlier
    drain_seconds: float = 60.0  # SIGTERM to the last released lease


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """Who may wait, and how long each class is prepared to."""

    max_length: int = 100_000
    patience_seconds: Mapping[Priority, float] = field(
        default_factory=lambda: {Priority.HIGH: 5.0, Priority.NORMAL: 60.0, Priority.LOW: 600.0}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSettings:
    """How deals are batched into Postgres."""

    batch_deals: int = 1_000  # throughput flattens above (stack.md)
    link_batch_deals: int = 250  # of one link in a batch; its burst must not hold the others up
    batch_bytes: int = 8_388_608  # a statement of more would hold up all the others
    batch_age_seconds: float = 0.005  # what a lone deal may wait for company
    buffer_deals: int = 20_000  # full = writers wait
    buffer_bytes: int = 67_108_864  # likewise; usual deals take a quarter of it, huge ones all
    retry_ceiling_seconds: float = 5.0  # between attempts while Postgres is away
    events_retention_days: int = 14  # how far behind a reader of the feed may be
    feed_poll_seconds: float = 0.25  # between two looks for events of other nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationSettings:
    """How what clients ask for, such as audits, is found, ends and is forgotten."""

    poll_seconds: float = 1.0  # between two looks for what was asked; a hint wakes it earlier
    expire_seconds: float = 86_400.0  # asked a day ago and not done: whoever asked has left
    keep_days: int = 30  # what an audit found is worth reading at the end of the month


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseSettings:
    """Where Postgres is. The URLs are libpq URIs and may hold passwords, hence secrets."""

    url: Secret
    read_url: Secret | None = None  # a replica for reads of the API; the primary without one
    pool_size: int = 20
    read_pool_size: int = 10
    acquire_seconds: float = 2.0
    idle_seconds: float = 30.0
    lifetime_seconds: float = 1_800.0
    statement_timeout_seconds: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSettings:
    """Where Redis or Valkey is; without a URL brokerd does without."""

    url: Secret | None = None
    timeout_seconds: float = 0.25  # slower than this is as good as gone
    snapshot_seconds: float = 1.0  # how old a cached status may be


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Where the control API listens, and the one key that opens it."""

    key: Secret
    host: str = "127.0.0.1"
    port: int = 8787
    max_streams: int = 5_000  # event streams at once; more are refused
    stream_buffer_bytes: int = 262_144  # per event stream; one that reads slower is cut


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketHours:
    """When a broker server trades, in its own time zone; spans as `Mon 00:05-Fri 23:55`."""

    time_zone: str
    open: tuple[str, ...]
    pauses: tuple[str, ...] = ()  # within the open spans, as each night's restart
    holidays: tuple[str, ...] = ()  # whole days, as 2026-12-25


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    """What is expected of links, and when many that fail are one incident.

    And what a process may use before it drains and starts afresh (docs/sdk.md: what leaks).
    """

    markets: Mapping[str, MarketHours] = field(default_factory=dict)  # by server name or pattern
    incident_links: int = 3  # fewer that fail together are no incident
    incident_part: float = 0.5  # of a scope's links
    incident_window_seconds: float = 60.0  # what "together" means
    canary_seconds: float = (
        30.0  # between the first two probes of an incident; later ones wait more
    )
    canary_ceiling_seconds: float = 900.0
    returns_per_second: float = 5.0  # links that come back once one is; all within 30 s
    max_connections_made: int = 100_000  # of the SDK, ever; each leaves some hundred bytes behind
    max_tasks: int = 30_000  # 1,000 links take about 10,000
    max_resident_mb: int = 1_024  # 1,000 links take about 200
    recycle_spread_seconds: float = 600.0  # nodes that started together do not end together


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How much is logged."""

    level: str = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration of one node."""

    node_name: str
    metaapi: MetaApiSettings
    database: DatabaseSettings
    api: ApiSettings
    governor: GovernorSettings = field(default_factory=GovernorSettings)
    link: LinkSettings = field(default_factory=LinkSettings)
    provisioning: ProvisioningSettings = field(default_factory=ProvisioningSettings)
    money: MoneySettings = field(default_factory=MoneySettings)
    budgets: BudgetSettings = field(default_factory=BudgetSettings)
    secrets: SecretsSettings = field(default_factory=SecretsSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    operations: OperationSettings = field(default_factory=OperationSettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    log: LogSettings = field(default_factory=LogSettings)


DEFAULT_PATH = Path("/etc/brokerd/brokerd.toml")
