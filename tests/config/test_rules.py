"""Each rule between settings refuses what breaks it, and only that."""

from dataclasses import replace

import pytest

from brokerd.config.rules import broken_rules
from brokerd.config.settings import (
    ApiSettings,
    DatabaseSettings,
    MarketHours,
    MetaApiSettings,
    Secret,
    Settings,
)
from brokerd.domain import Priority

_SETTINGS = Settings(
    node_name="node-1",
    metaapi=MetaApiSettings(tokens={"main": Secret("planted-token")}),
    database=DatabaseSettings(url=Secret("postgresql://planted@db/brokerd")),
    api=ApiSettings(key=Secret("planted-key-0123456789")),
)


def _broken(section: str, **values: object) -> list[str]:
    changed = replace(getattr(_SETTINGS, section), **values) if values else section
    problems = broken_rules(replace(_SETTINGS, **{section: changed}))
    assert "planted" not in "\n".join(problems)
    return [problem.partition(":")[0] for problem in problems]


def test_defaults_break_no_rule() -> None:
    """The defaults are a configuration we stand by."""
    assert broken_rules(_SETTINGS) == []


@pytest.mark.parametrize(
    ("section", "values", "key"),
    [
        ("pool", {"max_links": -1}, "pool.max_links"),
        ("pool", {"poll_seconds": 0.0}, "pool.poll_seconds"),
        ("pool", {"heartbeat_seconds": 6.0}, "pool.freeze_seconds"),
        ("pool", {"lease_seconds": 10.0}, "pool.lease_seconds"),
        ("pool", {"hold_seconds": 15.0}, "pool.hold_seconds"),
        ("pool", {"drain_seconds": 71.0}, "pool.drain_seconds"),
        ("link", {"backoff_base_seconds": 301.0}, "link.backoff_ceiling_seconds"),
        ("link", {"stream_overlap_seconds": 901.0}, "link.reconnect_overlap_seconds"),
        ("link", {"reconnect_overlap_seconds": 259_201.0}, "link.rolling_overlap_seconds"),
        ("link", {"connect_timeout_seconds": 19.0}, "link.connect_timeout_seconds"),
        ("link", {"silence_seconds": 19.0}, "link.silence_seconds"),
        ("link", {"silence_seconds": float("nan")}, "link.silence_seconds"),
        ("link", {"stable_seconds": float("inf")}, "link.stable_seconds"),
        ("ledger", {"buffer_deals": 999}, "ledger.buffer_deals"),
        ("ledger", {"link_batch_deals": 1_001}, "ledger.batch_deals"),
        ("database", {"lifetime_seconds": 29.0}, "database.lifetime_seconds"),
        ("database", {"url": Secret("mysql://planted")}, "database.url"),
        ("redis", {"url": Secret("http://planted")}, "redis.url"),
        ("health", {"incident_part": 1.5}, "health.incident_part"),
        ("health", {"canary_seconds": 901.0}, "health.canary_ceiling_seconds"),
        (
            "health",
            {"markets": {"B-*": MarketHours(time_zone="UTC", open=())}},
            "health.markets.B-*",
        ),
        ("api", {"host": "0.0.0.0"}, "api.host"),
        ("api", {"host": "::"}, "api.host"),
        ("api", {"host": "broker.example"}, "api.host"),
        ("api", {"port": 65_536}, "api.port"),
        ("api", {"key": Secret("planted-short")}, "api.key"),
        ("log", {"level": "loud"}, "log.level"),
        ("metaapi", {"tokens": {}}, "metaapi.tokens"),
        ("metaapi", {"domain": "https://planted"}, "metaapi.domain"),
        ("metaapi", {"stream_url": "127.0.0.1:80"}, "metaapi.stream_url"),
        ("metaapi", {"client_url": "http://user:planted@host"}, "metaapi.client_url"),
        ("metaapi", {"provisioning_url": "http://[planted"}, "metaapi.provisioning_url"),
        ("metaapi", {"request_attempts": 0}, "metaapi.request_attempts"),
        (
            "queue",
            {"patience_seconds": {Priority.HIGH: 9.0, Priority.NORMAL: 8.0, Priority.LOW: 9.0}},
            "queue.patience_seconds.normal",
        ),
        (
            "queue",
            {"patience_seconds": {Priority.HIGH: 0.0, Priority.NORMAL: 8.0, Priority.LOW: 9.0}},
            "queue.patience_seconds.high",
        ),
    ],
)
def test_broken_rule(section: str, values: dict[str, object], key: str) -> None:
    """Each broken rule is told once, under the key to change."""
    assert _broken(section, **values) == [key]


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "node/1"])
def test_node_name(name: str) -> None:
    """A node's name is short and plain, because it ends in logs and metrics."""
    problems = broken_rules(replace(_SETTINGS, node_name=name))
    assert [problem.partition(":")[0] for problem in problems] == ["node_name"]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("pool", {"max_links": 0}),
        ("api", {"host": "::1"}),
        ("api", {"host": "localhost"}),
        ("api", {"host": "127.8.8.8", "port": 0}),
        ("redis", {"url": Secret("unix:///run/valkey.sock")}),
        ("metaapi", {"stream_url": "http://127.0.0.1:9", "client_url": "https://c.{region}.x"}),
        ("pool", {"drain_seconds": 70.0}),
    ],
)
def test_allowed(section: str, values: dict[str, object]) -> None:
    """What is unusual but safe is allowed."""
    assert _broken(section, **values) == []


def test_keys_that_seal_passwords_are_long_and_one_of_them_is_current() -> None:
    """None at all is fine: then brokerd creates no accounts."""
    good, short = Secret("planted" * 5), Secret("planted")
    assert _broken("secrets", keys={"k1": good}, current="k1") == []
    assert _broken("secrets", keys={"k1": good}, current="k2") == ["secrets.current"]
    assert _broken("secrets", keys={"k1": good}) == ["secrets.current"]
    assert _broken("secrets", keys={"k1": short}, current="k1") == ["secrets.keys.k1"]
    assert _broken("secrets", keys={"a:b": good}, current="a:b") == ["secrets.keys"]


def test_what_is_created_is_what_metaapi_offers() -> None:
    """And an account is looked at before it is given up; budgets may be nothing at all."""
    assert _broken("provisioning", account_type="cloud-g9") == ["provisioning.account_type"]
    assert _broken("provisioning", reliability="low") == ["provisioning.reliability"]
    assert _broken("provisioning", poll_seconds=600.0) == ["provisioning.timeout_seconds"]
    assert _broken("budgets", link_attempts=0, fleet_usd=0.0) == []
    assert _broken("money", add_usd=-1.0) == ["money.add_usd"]
