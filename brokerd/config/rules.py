"""What the settings must satisfy together: bounds, ratios and what would be unsafe.

Pure; every problem names the key and what to do.
"""

import ipaddress
import math
import re
from collections.abc import Iterator
from dataclasses import fields
from itertools import pairwise
from typing import Final
from urllib.parse import urlsplit

from brokerd.config.hours import BadHours, read_hours
from brokerd.config.settings import (
    ApiSettings,
    BudgetSettings,
    GovernorSettings,
    HealthSettings,
    LinkSettings,
    MetaApiSettings,
    MoneySettings,
    PoolSettings,
    ProvisioningSettings,
    Secret,
    SecretsSettings,
    Settings,
)
from brokerd.domain import Priority

UNIT_STOP_SECONDS: Final = 90.0
"""TimeoutStopSec of systemd/brokerd.service: then the process is killed."""

_MAY_BE_ZERO = frozenset(
    {
        *(f"budgets.{field.name}" for field in fields(BudgetSettings)),
        *(f"money.{field.name}" for field in fields(MoneySettings)),
        "pool.max_links",
        "queue.max_length",
        "ledger.batch_age_seconds",
        "governor.user_credits_per_second",
        "governor.user_credits_per_minute",
        "governor.user_credits_per_hour",
        "governor.user_credits_per_six_hours",
        "governor.server_credits_per_second",
        "governor.account_credits_per_ten_seconds",
        "governor.provisioning_requests_per_minute",
        "governor.fleet_socket_opens_per_second",
        "governor.item_credits",
        "link.backoff_hold_seconds",
        "health.recycle_spread_seconds",
        "redis.snapshot_seconds",
        "api.port",
    }
)
_LEVELS = ("debug", "info", "warning", "error")
_POSTGRES_SCHEMES = ("postgresql://", "postgres://")
_KEY_CHARACTERS = 16
_SEAL_CHARACTERS = 32
_ACCOUNT_TYPES = ("cloud-g2", "cloud-g1")
_RELIABILITIES = ("high", "regular")
_PORT_LIMIT = 65_535
_NODE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HOST_NAME = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]+)?")


def broken_rules(settings: Settings) -> list[str]:
    """Return every rule that the settings break, in the order of the sections."""
    return [
        *_numbers(settings),
        *_node(settings),
        *_metaapi(settings.metaapi),
        *_governor(settings.governor),
        *_link(settings.link, settings.metaapi),
        *_pool(settings.pool, settings.link),
        *_queue(settings),
        *_stores(settings),
        *_health(settings.health),
        *_api(settings.api),
        *_provisioning(settings.provisioning),
        *_secrets(settings.secrets),
    ]


def _numbers(settings: Settings) -> Iterator[str]:
    """Every number is finite and above zero, save the few that may be zero."""
    for section in fields(settings):
        values = getattr(settings, section.name)
        for field in fields(values) if hasattr(values, "__dataclass_fields__") else ():
            key, value = f"{section.name}.{field.name}", getattr(values, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            if not math.isfinite(value) or value < 0:
                yield f"{key}: is {value}; it must be a finite number, not below 0"
            elif value == 0 and key not in _MAY_BE_ZERO:
                yield f"{key}: is 0; it must be above 0"


def _node(settings: Settings) -> Iterator[str]:
    if not _NODE_NAME.fullmatch(settings.node_name):
        yield "node_name: must be 1 to 64 letters, digits, dots, dashes or underscores"
    if settings.log.level not in _LEVELS:
        yield f"log.level: must be one of {', '.join(_LEVELS)}"


def _metaapi(metaapi: MetaApiSettings) -> Iterator[str]:
    if not metaapi.tokens:
        yield 'metaapi.tokens: is empty; name a token, as main = { credential = "metaapi-main" }'
    if not _HOST_NAME.fullmatch(metaapi.domain):
        yield "metaapi.domain: must be a bare host name, without scheme and path"
    for name in ("provisioning_url", "client_url", "stream_url"):
        url = getattr(metaapi, name)
        if url is not None and not _is_plain_url(url):
            yield f"metaapi.{name}: must be an http or https URL with a host and without a password"


def _is_plain_url(url: str) -> bool:
    try:
        parts = urlsplit(url.replace("{region}", "region"))
        return (
            parts.scheme in {"http", "https"} and bool(parts.hostname) and "@" not in parts.netloc
        )
    except ValueError:
        return False


def _governor(governor: GovernorSettings) -> Iterator[str]:
    for name in ("even_share_ratio", "quota_warning_ratio"):
        ratio = getattr(governor, name)
        if ratio > 1:
            yield f"governor.{name}: is {ratio}; it is a part of a whole, so at most 1"
    yield from _ordered(
        ("governor.breaker_first_seconds", governor.breaker_first_seconds),
        ("governor.breaker_longest_seconds", governor.breaker_longest_seconds),
        why="the wait between probes grows from the first to the longest",
    )


def _link(link: LinkSettings, metaapi: MetaApiSettings) -> Iterator[str]:
    yield from _ordered(
        ("metaapi.connect_timeout_seconds", metaapi.connect_timeout_seconds),
        ("link.connect_timeout_seconds", link.connect_timeout_seconds),
        why="a link's connect contains the socket's",
    )
    yield from _ordered(
        ("link.suspect_seconds", link.suspect_seconds),
        ("link.silence_seconds", link.silence_seconds),
        why="it bounds what a stream's own pace allows",
    )
    yield from _ordered(
        ("link.stream_overlap_seconds", link.stream_overlap_seconds),
        ("link.reconnect_overlap_seconds", link.reconnect_overlap_seconds),
        ("link.rolling_overlap_seconds", link.rolling_overlap_seconds),
        why="a wider pull must cover what a narrower one reads",
    )
    yield from _ordered(
        ("link.backoff_base_seconds", link.backoff_base_seconds),
        ("link.backoff_ceiling_seconds", link.backoff_ceiling_seconds),
        why="the wait grows from the base to the ceiling",
    )


def _pool(pool: PoolSettings, link: LinkSettings) -> Iterator[str]:
    if pool.heartbeat_seconds * 2 > pool.freeze_seconds:
        yield (
            f"pool.freeze_seconds: is {pool.freeze_seconds}; one lost heartbeat must not freeze "
            f"the node, so make it at least {pool.heartbeat_seconds * 2} (twice the heartbeat)"
        )
    yield from _ordered(
        ("pool.freeze_seconds", pool.freeze_seconds),
        ("pool.lease_seconds", pool.lease_seconds),
        ("pool.hold_seconds", pool.hold_seconds),
        why="a node must have stopped before another may bury it",
        is_strict=True,
    )
    if pool.drain_seconds + link.close_timeout_seconds > UNIT_STOP_SECONDS:
        yield (
            f"pool.drain_seconds: is {pool.drain_seconds}; with link.close_timeout_seconds "
            f"{link.close_timeout_seconds} it passes the {UNIT_STOP_SECONDS:g} s after which "
            "systemd kills; lower it"
        )


def _queue(settings: Settings) -> Iterator[str]:
    patience = settings.queue.patience_seconds
    for priority, seconds in patience.items():
        if not math.isfinite(seconds) or seconds <= 0:
            yield f"queue.patience_seconds.{priority}: is {seconds}; it must be above 0 and finite"
    yield from _ordered(
        *(
            (f"queue.patience_seconds.{priority}", patience[priority])
            for priority in (Priority.HIGH, Priority.NORMAL, Priority.LOW)
        ),
        why="a higher priority is never the more patient one",
    )


def _stores(settings: Settings) -> Iterator[str]:
    yield from _ordered(
        ("ledger.link_batch_deals", settings.ledger.link_batch_deals),
        ("ledger.batch_deals", settings.ledger.batch_deals),
        ("ledger.buffer_deals", settings.ledger.buffer_deals),
        why="the buffer holds a batch, and a batch what one link may bring to it",
    )
    yield from _ordered(
        ("ledger.batch_bytes", settings.ledger.batch_bytes),
        ("ledger.buffer_bytes", settings.ledger.buffer_bytes),
        why="the buffer holds at least one batch",
    )
    yield from _ordered(
        ("database.idle_seconds", settings.database.idle_seconds),
        ("database.lifetime_seconds", settings.database.lifetime_seconds),
        why="a connection cannot be idle longer than it lives",
    )
    yield from _scheme("database.url", settings.database.url, _POSTGRES_SCHEMES)
    if settings.database.read_url is not None:
        yield from _scheme("database.read_url", settings.database.read_url, _POSTGRES_SCHEMES)
    if settings.redis.url is not None:
        schemes = ("redis://", "rediss://", "unix://")
        yield from _scheme("redis.url", settings.redis.url, schemes)


def _health(health: HealthSettings) -> Iterator[str]:
    for name, written in health.markets.items():
        try:
            read_hours(written)
        except BadHours as problem:
            yield f"health.markets.{name}: {problem}"
    if health.incident_part > 1:
        yield f"health.incident_part: is {health.incident_part}; a part of all links is at most 1"
    yield from _ordered(
        ("health.canary_seconds", health.canary_seconds),
        ("health.canary_ceiling_seconds", health.canary_ceiling_seconds),
        why="the wait between probes grows from one to the other",
    )


def _scheme(key: str, url: Secret, schemes: tuple[str, ...]) -> Iterator[str]:
    if not url.reveal().startswith(schemes):
        yield f"{key}: must be a URL that starts with {' or '.join(schemes)}"


def _api(api: ApiSettings) -> Iterator[str]:
    if len(api.key.reveal()) < _KEY_CHARACTERS:
        yield (
            f"api.key: is shorter than {_KEY_CHARACTERS} characters and can be guessed; "
            "make one with `openssl rand -hex 32`"
        )
    if api.port > _PORT_LIMIT:
        yield f"api.port: is {api.port}; ports end at {_PORT_LIMIT}"
    if not _is_loopback(api.host):
        yield (
            "api.host: is beyond loopback, which needs TLS, and brokerd does not speak it yet; "
            "listen on 127.0.0.1 and put a TLS proxy before it"
        )


def _provisioning(provisioning: ProvisioningSettings) -> Iterator[str]:
    if provisioning.account_type not in _ACCOUNT_TYPES:
        yield f"provisioning.account_type: must be one of {', '.join(_ACCOUNT_TYPES)}"
    if provisioning.reliability not in _RELIABILITIES:
        yield f"provisioning.reliability: must be one of {', '.join(_RELIABILITIES)}"
    yield from _ordered(
        ("provisioning.poll_seconds", provisioning.poll_seconds),
        ("provisioning.timeout_seconds", provisioning.timeout_seconds),
        why="an account is looked at before it is given up",
        is_strict=True,
    )


def _secrets(secrets: SecretsSettings) -> Iterator[str]:
    for key_id, key in secrets.keys.items():
        if not _NODE_NAME.fullmatch(key_id):
            yield "secrets.keys: an id must be 1 to 64 letters, digits, dots, dashes or underscores"
        if len(key.reveal()) < _SEAL_CHARACTERS:
            yield (
                f"secrets.keys.{key_id}: is shorter than {_SEAL_CHARACTERS} characters; "
                "make one with `openssl rand -hex 32`"
            )
    if secrets.keys and secrets.current not in secrets.keys:
        yield "secrets.current: must be the id of one of secrets.keys, which seals from now on"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _ordered(*values: tuple[str, float], why: str, is_strict: bool = False) -> Iterator[str]:
    """Each value must be at most the next one; strictly below it where `is_strict`."""
    for (low_key, low), (high_key, high) in pairwise(values):
        if low > high or (is_strict and low == high):
            relation = "above" if is_strict else "at least"
            yield f"{high_key}: is {high}; {why}, so it must be {relation} {low_key}, {low}"
