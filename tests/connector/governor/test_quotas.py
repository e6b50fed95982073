"""What MetaApi says of its quotas, in every shape; and when it is little, a warning in time."""

import asyncio
from dataclasses import dataclass, field
from math import isnan

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.fleet import Fleet
from brokerd.connector.governor.ports import Demand, Quota, Usage
from brokerd.connector.governor.quota_watch import QuotaWatch
from brokerd.connector.governor.quotas import (
    Headroom,
    QuotaKind,
    headrooms,
    quotas_of,
    usages_of,
)
from brokerd.errors import Forbidden, RemoteUnavailable
from brokerd.telemetry import Metrics

RECORD = {
    "region": "london",
    "maxAccounts": {"quota": 100, "usageInPercents": 12.5},
    "maxProvisioningProfiles": {"quota": 100, "usageInPercents": 0},
    "maxDeployedG1Accounts": {"quota": 20, "usageInPercents": 0},
    "maxDeployedG2Accounts": {"quota": 80, "usageInPercents": 10},
}
LONDON = Quota(region="london", accounts=100, deployed=80)


@pytest.mark.parametrize(
    ("body", "quotas"),
    [
        ([RECORD], [LONDON]),
        (RECORD, [LONDON]),
        ({"london": {k: v for k, v in RECORD.items() if k != "region"}}, [LONDON]),
        ([{"region": "london", "maxAccounts": 100, "maxDeployedG2Accounts": 80.0}], [LONDON]),
        ([{"region": "london"}], [Quota(region="london", accounts=None, deployed=None)]),
        (
            [{"region": "london", "maxAccounts": {"quota": "many"}, "maxDeployedG2Accounts": -1}],
            [Quota(region="london", accounts=None, deployed=None)],
        ),
        ([{"maxAccounts": {"quota": 1}}, "london", 5, None], []),
        ({}, []),
        ([], []),
        ("none", []),
        (None, []),
    ],
    ids=repr,
)
def test_quotas_are_read_from_any_shape(body, quotas):
    """What is of a shape we do not know says nothing, and breaks nothing."""
    assert list(quotas_of(body)) == quotas


@pytest.mark.parametrize(
    ("period", "seconds"),
    [(1, 1.0), (60.0, 60.0), ("10s", 10.0), ("1m", 60.0), ("6h", 21_600.0), ("1", 1.0)],
)
def test_credits_are_read_with_their_periods(period, seconds):
    """Numbers are seconds, texts say their unit."""
    record = {"period": period, "total": 2000, "available": 12.5}
    answer = {"perUser": [record, {"period": "soon"}, 5], "perAccount": None}
    usage = Usage(scope="user", period_seconds=seconds, total=2000.0, available=12.5)
    assert list(usages_of(answer)) == [usage]


@pytest.mark.parametrize("answer", [[], 5, None, {}, {"perUser": {"period": 1}}], ids=repr)
def test_credits_of_another_shape_say_nothing(answer):
    """Nor do they fail."""
    assert list(usages_of(answer)) == []


def demand(accounts, region="london", *, of="main"):
    """Want so many accounts."""
    return Demand(
        token=of, region=region, wanted=accounts, accounts=accounts, example_account_id="a-1"
    )


def test_demand_is_compared_by_region_and_in_all():
    """Quotas are a region's, subscriptions a user's; regions nobody wants are left out."""
    tokyo = Quota(region="tokyo", accounts=5, deployed=None)
    empty = Quota(region="singapore", accounts=1, deployed=1)
    demands = [demand(70), demand(4, "tokyo"), demand(99, of="other")]
    found = headrooms("main", quotas=[LONDON, tokyo, empty], demands=demands, subscriptions=75)
    assert [(each.region, each.kind, each.left) for each in found] == [
        ("london", QuotaKind.ACCOUNTS, 30),
        ("london", QuotaKind.DEPLOYED, 10),
        ("tokyo", QuotaKind.ACCOUNTS, 1),
        ("", QuotaKind.SUBSCRIPTIONS, 1),
    ]


@pytest.mark.parametrize(("wanted", "is_low"), [(90, False), (91, True), (120, True)])
def test_less_than_a_tenth_is_low(wanted, is_low):
    """A warning comes before links are refused, and stays when they are."""
    quota = Headroom(
        token="main", region="london", kind=QuotaKind.DEPLOYED, allowed=100, wanted=wanted
    )
    assert quota.is_low(0.1) is is_low


@dataclass
class Stated:
    """What MetaApi says, in the test's hands."""

    stated: list = field(default_factory=lambda: [LONDON])
    usages: list = field(default_factory=list)
    failure: Exception | None = None
    asked: list = field(default_factory=list)

    async def quotas(self, token):
        """Answer, or fail."""
        self.asked.append(token)
        if self.failure is not None:
            raise self.failure
        return self.stated

    async def credits(self, remote):
        """Answer, or fail."""
        self.asked.append(remote)
        if self.failure is not None:
            raise self.failure
        return self.usages


class Rig:
    """A watch over what is wanted and what is stated."""

    def __init__(self, *demands, **settings):
        self.metrics = Metrics(CollectorRegistry())
        self.fleet = Fleet(None, node_count_seconds=5.0)
        self.reader = Stated()
        self.subscriptions = {}
        self.watch = QuotaWatch(
            self.reader,
            fleet=self.fleet,
            subscriptions=self.subscriptions,
            settings=GovernorSettings(**settings),
            metrics=self.metrics,
        )
        self.want(*demands)

    def want(self, *demands):
        """Change what is wanted."""
        self.fleet.demands = demands

    async def look(self):
        """Look once; return what was told."""
        with capture_logs() as logs:
            await self.watch.look()
        return [(e["event"], e.get("kind")) for e in logs if e["log_level"] != "debug"]

    def left(self, kind):
        """Read the gauge."""
        labels = {"token": "main", "quota": kind}
        return self.metrics.registry.get_sample_value("brokerd_metaapi_quota_headroom", labels)


async def test_a_warning_comes_before_links_block_and_once():
    """Told when it becomes low, and when it is not any more; shown all the time."""
    rig = Rig(demand(60))
    assert await rig.look() == []
    assert (rig.left("accounts"), rig.left("deployed")) == (40, 20)
    rig.want(demand(75))
    assert await rig.look() == [("metaapi.quota_low", "deployed")]
    assert await rig.look() == []
    assert rig.left("deployed") == 5
    rig.want(demand(85))
    assert await rig.look() == []
    assert rig.left("deployed") == -5
    rig.reader.stated = [Quota(region="london", accounts=1_000, deployed=1_000)]
    assert await rig.look() == [("metaapi.quota_enough", "deployed")]


async def test_subscriptions_are_known_once_metaapi_refused_one():
    """Until then nothing is said of them."""
    rig = Rig(demand(60))
    await rig.look()
    assert isnan(rig.left("subscriptions"))
    rig.subscriptions["main"] = 62
    assert await rig.look() == [("metaapi.quota_low", "subscriptions")]
    assert rig.left("subscriptions") == 2


@pytest.mark.parametrize("failure", [RemoteUnavailable("503"), Forbidden("403")], ids=repr)
async def test_what_cannot_be_read_is_unknown(failure):
    """No warning, no failure, and no number that is not true any more."""
    rig = Rig(demand(60))
    await rig.look()
    rig.reader.failure = failure
    assert await rig.look() == []
    assert isnan(rig.left("deployed"))


async def test_tokens_are_read_one_by_one():
    """Each that is wanted, with an account of its own; none that is not."""
    created = Demand(token="new", region="tokyo", wanted=1, accounts=0, example_account_id=None)
    rig = Rig(demand(1), demand(1, "tokyo"), demand(1, of="other"), created)
    await rig.look()
    tokens = [each if isinstance(each, str) else each.token for each in rig.reader.asked]
    assert tokens == ["main", "main", "new", "other", "other"]


async def test_credits_stated_otherwise_than_kept_are_told_once():
    """The operator learns what the service really allows, and can configure it."""
    rig = Rig(demand(2))
    rig.fleet._accounts["main"] = 2
    rig.reader.usages = [
        Usage(scope="user", period_seconds=1.0, total=2_000.0, available=5.0),
        Usage(scope="user", period_seconds=3_600.0, total=360_000.0, available=5.0),
        Usage(scope="server", period_seconds=60.0, total=9.0, available=5.0),
    ]
    with capture_logs() as logs:
        await rig.watch.look()
        await rig.watch.look()
    told = [(e["scope"], e["period_seconds"], e["stated"], e["kept"]) for e in logs]
    assert told == [("user", 3_600.0, 360_000.0, 36_000), ("server", 60.0, 9.0, None)]


@pytest.mark.looptime(noop_cycles=0)
async def test_quotas_are_read_once_an_hour():
    """The first time a minute after the start."""
    rig = Rig(demand(1))
    running = asyncio.ensure_future(rig.watch.run())
    await asyncio.sleep(59)
    assert rig.reader.asked == []
    await asyncio.sleep(3_600 * 3)
    assert rig.reader.asked.count("main") == 3
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
