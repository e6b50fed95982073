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


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """How one link lives (design.md 7)."""

    connect_timeout_seconds: float = 60.0
    verify_timeout_seconds: float = 15.0
    sync_stall_seconds: float = 120.0  # a sync without progress for so long has failed
    silence_seconds: float = 60.0  # no packet at all, not even a heartbeat
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
    backoff_base_seconds: float = 1.0
    backoff_ceiling_seconds: float = 300.0
    backoff_hold_seconds: float = 30.0  # up to so long a wait keeps the slot
    stable_seconds: float = 300.0  # live for so long resets the backoff
    blocked_recheck_seconds: float = 900.0  # a refused link looks again so often
    close_timeout_seconds: float = 20.0


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
    batch_age_seconds: float = 0.005  # what a lone deal may wait for company
    buffer_deals: int = 20_000  # full = writers wait
    retry_ceiling_seconds: float = 5.0  # between attempts while Postgres is away
    events_retention_days: int = 14  # how far behind a reader of the feed may be
    feed_poll_seconds: float = 0.25  # between two looks for events of other nodes


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
    link: LinkSettings = field(default_factory=LinkSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    ledger: LedgerSettings = field(default_factory=LedgerSettings)
    redis: RedisSettings = field(default_factory=RedisSettings)
    log: LogSettings = field(default_factory=LogSettings)


DEFAULT_PATH = Path("/etc/brokerd/brokerd.toml")
