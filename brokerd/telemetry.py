"""Every metric of brokerd, defined once."""

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from brokerd.domain import BadReason, Phase, Proof, Source
from brokerd.operations import OperationFailure, OperationKind

_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_DETECTION_BUCKETS = (0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 60.0, 300.0, 600.0)
DETECTION_SIGNALS = ("interruption", "silence", "decision", "gap", "deaf")
"""How a fault of a session is noticed."""
FEED_HOLDERS = ("brokerd", "other", "prepared")
"""Whose open transactions may keep the feed waiting."""


WEDGE_REASONS = ("calls_hang", "close_stuck", "socket_stuck", "attempts_broken", "sessions_deaf")
RECYCLE_REASONS = ("connections", "tasks", "memory")
CHARGES = ("add", "deploy", "auth", "timezone")
"""What MetaApi charges attempts for."""
WINDOW_OUTCOMES = ("closed", "split", "merged", "verified", "mismatch")


class Metrics:
    """Every metric of the process, on the registry that is passed in (list: docs/metrics.md)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Create all series, closed label sets at zero."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped in the library
        self.registry = registry
        self._define_links(registry)
        self._define_metaapi(registry)
        self._define_money(registry)
        self._define_ledger(registry)
        self._define_store(registry)
        self._define_readers(registry)
        self._define_process(registry)
        self._create_series()

    def _define_links(self, registry: CollectorRegistry) -> None:
        self.links = Gauge(
            "brokerd_links", "Links this node runs, by phase.", ["phase"], registry=registry
        )
        self.link_transitions = Counter(
            "brokerd_link_transitions", "Phase changes.", ["to"], registry=registry
        )
        self.link_failures = Counter(
            "brokerd_link_failures", "Failed attempts of links.", ["code"], registry=registry
        )
        self.time_to_live = Histogram(
            "brokerd_link_time_to_live_seconds",
            "Claim or loss to live.",
            ["cause"],
            registry=registry,
            buckets=_LATENCY_BUCKETS,
        )
        self.reconnects = Counter(
            "brokerd_link_reconnects", "Sessions that came back and were pulled.", registry=registry
        )
        self.link_detection = Histogram(
            "brokerd_link_detection_seconds",
            "From the first sign of a fault to what was made of it.",
            ["signal"],
            registry=registry,
            buckets=_DETECTION_BUCKETS,
        )
        for signal in DETECTION_SIGNALS:
            self.link_detection.labels(signal=signal)
        self.incidents = Gauge(
            "brokerd_incidents",
            "Open incidents of this node, by reach.",
            ["reach"],
            registry=registry,
        )
        self.incident_changes = Counter(
            "brokerd_incident_changes",
            "Incidents that opened, returned, relapsed, closed.",
            ["reach", "stage"],
            registry=registry,
        )
        self.slots = Gauge("brokerd_pool_slots", "pool.max_links.", registry=registry)
        self.slots_in_use = Gauge("brokerd_pool_slots_in_use", "Slots taken.", registry=registry)
        self.queue_length = Gauge(
            "brokerd_pool_queue_length", "Links waiting, by state.", ["state"], registry=registry
        )
        self.queue_oldest = Gauge(
            "brokerd_pool_queue_oldest_seconds", "Longest present wait.", registry=registry
        )

    def _define_metaapi(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "brokerd_metaapi_requests",
            "REST calls to MetaApi.",
            ["method", "outcome"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "brokerd_metaapi_request_duration_seconds",
            "REST calls to MetaApi, each attempt.",
            ["method"],
            registry=registry,
            buckets=_LATENCY_BUCKETS,
        )
        self.throttled = Counter(
            "brokerd_metaapi_throttled", "429 answers.", ["scope"], registry=registry
        )
        self.held = Counter(
            "brokerd_metaapi_held",
            "Requests that the governor put off instead of sending.",
            ["cause"],
            registry=registry,
        )
        self.credits_available = Gauge(
            "brokerd_metaapi_credits_available_ratio",
            "What the poorest scope has left of this node's share of a limit.",
            ["scope", "period"],
            registry=registry,
        )
        self.clock_offset = Gauge(
            "brokerd_metaapi_clock_offset_seconds",
            "MetaApi's clock less ours.",
            ["peer"],
            registry=registry,
        )
        self.breaker_state = Gauge(
            "brokerd_breaker_state",
            "The worst breaker: 0 closed, 1 probing, 2 open.",
            ["cause", "scope"],
            registry=registry,
        )
        self.breaker_opens = Counter(
            "brokerd_breaker_opens", "Breakers that opened.", ["cause", "scope"], registry=registry
        )
        self.quota_headroom = Gauge(
            "brokerd_metaapi_quota_headroom",
            "What a quota of MetaApi allows beyond what is wanted.",
            ["token", "quota"],
            registry=registry,
        )
        self.socket_opens = Counter(
            "brokerd_stream_socket_opens", "Attempts to open a stream socket.", registry=registry
        )
        self.stream_gaps = Counter(
            "brokerd_stream_gaps", "Stream losses noticed.", ["reason"], registry=registry
        )
        self.abandoned_calls = Counter(
            "brokerd_stream_abandoned_calls", "SDK awaits that were given up.", registry=registry
        )
        self.connections = Counter(
            "brokerd_stream_connections", "Connections of the SDK made.", registry=registry
        )
        self.clients_replaced = Counter(
            "brokerd_stream_clients_replaced",
            "SDK clients that were wedged.",
            ["reason"],
            registry=registry,
        )
        self.synchronizations = Counter(
            "brokerd_stream_synchronizations",
            "Synchronizations begun, by how the specifications were told.",
            ["specifications"],
            registry=registry,
        )

    def _define_money(self, registry: CollectorRegistry) -> None:
        self.chargeable_attempts = Counter(
            "brokerd_metaapi_chargeable_attempts",
            "Calls to MetaApi that it charges for, by what for.",
            ["kind"],
            registry=registry,
        )
        for kind in CHARGES:
            self.chargeable_attempts.labels(kind=kind)
        self.budget_remaining = Gauge(
            "brokerd_metaapi_budget_remaining",
            "US dollars that may still be spent; of links and users the least of any.",
            ["budget"],
            registry=registry,
        )
        self.credential_cache_hits = Counter(
            "brokerd_metaapi_credential_cache_hits",
            "Known bad credentials that were not tried again.",
            registry=registry,
        )

    def _define_ledger(self, registry: CollectorRegistry) -> None:
        self.deals_received = Counter(
            "brokerd_deals_received", "Deals that reached us.", ["path"], registry=registry
        )
        self.deals_committed = Counter(
            "brokerd_deals_committed", "Deals written.", ["result"], registry=registry
        )
        self.deals_quarantined = Counter(
            "brokerd_deals_quarantined",
            "Records that are no deals, when first seen.",
            ["reason"],
            registry=registry,
        )
        self.quarantine_size = Gauge(
            "brokerd_quarantine_size",
            "Open records in quarantine, of all links.",
            ["reason"],
            registry=registry,
        )
        self.deals_missed = Counter(
            "brokerd_deals_found_by_pull",
            "Deals of a live link that a pull found and the stream had not brought.",
            registry=registry,
        )
        self.commit_latency = Histogram(
            "brokerd_deal_commit_latency_seconds",
            "Stream packet to commit.",
            registry=registry,
            buckets=_LATENCY_BUCKETS,
        )
        self.pulls = Counter(
            "brokerd_sync_pulls", "History pulls.", ["kind", "outcome"], registry=registry
        )
        self.windows = Counter(
            "brokerd_sync_windows", "Windows of history.", ["outcome"], registry=registry
        )
        self.proofs = Counter(
            "brokerd_balance_proofs", "Balance proofs.", ["verdict"], registry=registry
        )
        self.operations = Counter(
            "brokerd_operations",
            "Operations that ended, by what came of them.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.buffer_deals = Gauge(
            "brokerd_buffer_deals", "Deals waiting for their commit.", registry=registry
        )
        self.buffer_bytes = Gauge(
            "brokerd_buffer_bytes", "What they take, estimated.", registry=registry
        )

    def _define_store(self, registry: CollectorRegistry) -> None:
        self.batch_seconds = Histogram(
            "brokerd_db_transaction_duration_seconds",
            "Ledger statements.",
            ["op"],
            registry=registry,
            buckets=_LATENCY_BUCKETS,
        )
        self.db_failures = Counter(
            "brokerd_db_failures", "Failed database calls.", ["code"], registry=registry
        )
        self.table_bytes = Gauge(
            "brokerd_db_table_bytes", "Size with indexes.", ["table"], registry=registry
        )
        self.statement_seconds = Gauge(
            "brokerd_db_statement_seconds",
            "What the dearest statements took since pg_stat_statements was reset.",
            ["queryid"],
            registry=registry,
        )
        self.statement_calls = Gauge(
            "brokerd_db_statement_calls", "How often they ran.", ["queryid"], registry=registry
        )
        self.replica_lag = Gauge(
            "brokerd_replica_lag_seconds", "Age of what the replica shows.", registry=registry
        )
        self.replica_fallbacks = Counter(
            "brokerd_replica_fallbacks", "Reads the primary had to answer.", registry=registry
        )
        self.fenced = Counter(
            "brokerd_fenced_writes", "Writes refused by the fence.", registry=registry
        )

    def _define_readers(self, registry: CollectorRegistry) -> None:
        self.api_requests = Counter(
            "brokerd_api_requests",
            "Control API calls.",
            ["route", "method", "code"],
            registry=registry,
        )
        self.redis_failures = Counter(
            "brokerd_redis_failures",
            "Redis calls that failed and were done without.",
            registry=registry,
        )
        self.events_days_ahead = Gauge(
            "brokerd_events_days_ahead", "Days the feed has room for.", registry=registry
        )
        self.feed_stall = Gauge(
            "brokerd_feed_stall_seconds",
            "Age of the oldest committed event that readers must wait for.",
            registry=registry,
        )
        self.feed_holder_age = Gauge(
            "brokerd_feed_holder_age_seconds",
            "Oldest transaction that readers wait for, by whose it is.",
            ["holder"],
            registry=registry,
        )
        self.feed_events = Counter(
            "brokerd_feed_events", "Events read for subscribers.", registry=registry
        )
        self.sse_clients = Gauge("brokerd_sse_clients", "Open event streams.", registry=registry)
        self.sse_dropped = Counter(
            "brokerd_sse_dropped", "Event streams cut for reading too slowly.", registry=registry
        )

    def _define_process(self, registry: CollectorRegistry) -> None:
        self.heartbeat_age = Gauge(
            "brokerd_node_heartbeat_age_seconds", "Since the last confirmed one.", registry=registry
        )
        self.loop_lag = Histogram(
            "brokerd_event_loop_lag_seconds", "Lateness of a timer.", registry=registry
        )
        self.tasks = Gauge("brokerd_node_tasks", "asyncio tasks.", registry=registry)
        self.resident_bytes = Gauge(
            "brokerd_node_resident_bytes", "Resident memory.", registry=registry
        )
        self.recycle_wanted = Gauge(
            "brokerd_node_recycle_wanted",
            "1 while the node is past its budget and about to start afresh.",
            ["reason"],
            registry=registry,
        )
        self.build = Gauge("brokerd_build_info", "Always 1.", ["version", "sdk"], registry=registry)

    def _create_series(self) -> None:
        """Let every series of a closed set of labels be there from the start."""
        series: Sequence[tuple[Counter | Gauge | Histogram, str, Iterable[str]]] = (
            (self.links, "phase", Phase),
            (self.link_transitions, "to", Phase),
            (self.deals_received, "path", Source),
            (self.deals_quarantined, "reason", BadReason),
            (self.deals_committed, "result", ("inserted", "duplicate", "revised", "removed")),
            (self.time_to_live, "cause", ("first", "reconnect")),
            (self.queue_length, "state", ("ready", "backoff")),
            (self.feed_holder_age, "holder", FEED_HOLDERS),
            (self.windows, "outcome", WINDOW_OUTCOMES),
            (self.clients_replaced, "reason", WEDGE_REASONS),
            (self.synchronizations, "specifications", ("sent", "by_hash")),
            (self.recycle_wanted, "reason", RECYCLE_REASONS),
            (self.proofs, "verdict", Proof),
            (self.incidents, "reach", ("server", "region", "all")),
        )
        for metric, label, values in series:
            for value in values:
                metric.labels(**{label: value})
        for kind in OperationKind:
            for ending in (*Proof, *OperationFailure):
                self.operations.labels(kind=kind, outcome=ending)
