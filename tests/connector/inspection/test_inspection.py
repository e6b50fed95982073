"""What a look at MetaApi finds: shapes as known and otherwise, proofs, streams."""

from dataclasses import replace
from datetime import timedelta

import pytest
from governing import new_governor
from link_world import VirtualClock, World
from prometheus_client import CollectorRegistry

from brokerd.config.settings import GovernorSettings
from brokerd.connector.inspection import shapes
from brokerd.connector.inspection.inspector import (
    AccountInspector,
    InspectionPorts,
    TokenInspector,
    tried,
)
from brokerd.connector.inspection.ports import AccountQuestion, TokenQuestion
from brokerd.connector.inspection.proof import BEGINNING, prove
from brokerd.connector.inspection.report import Finding, Verdict, is_good
from brokerd.connector.inspection.stream import Heard, judged, watch
from brokerd.connector.ports import BrokerStatus, Connected, Gap, Synchronized
from brokerd.domain import DealId, MetaApiRef
from brokerd.errors import Incomplete, RemoteUnavailable, Synchronizing, TimedOut
from brokerd.sandbox.faults import FaultKind
from brokerd.telemetry import Metrics

pytestmark = pytest.mark.looptime(noop_cycles=0)
REMOTE = MetaApiRef(token="main", account_id="a-1", region="london")
RECORD = dict.fromkeys(shapes.ACCOUNT.required, "x") | {
    "_id": "a-1",
    "state": "DEPLOYED",
    "connectionStatus": "CONNECTED",
    "region": "london",
    "reliability": "high",
}
INFORMATION = dict.fromkeys(shapes.INFORMATION.required, "x") | {"currencyDigits": 2}
DEAL = dict.fromkeys(shapes.DEAL.required, "x")
CREDITS = {
    "perUser": [
        {"period": 1, "total": 1_000, "available": 1},
        {"period": 60, "total": 6_000, "available": 1},
        {"period": 3_600, "total": 18_000, "available": 1},
        {"period": 21_600, "total": 43_200, "available": 1},
    ],
    "perServer": [{"period": 1, "total": 2_000, "available": 1}],
    "perAccount": [{"period": 10, "total": 5_000, "available": 1}],
}


class Raw:
    """Answers as the dossier has them, in the test's hands."""

    def __init__(self):
        self.of = {
            TokenQuestion.ACCOUNTS: [RECORD],
            TokenQuestion.DISCOVERY: {"url": "u", "hostname": "h", "domain": "d"},
            TokenQuestion.REGIONS: ["london", "new-york"],
            TokenQuestion.QUOTAS: [dict.fromkeys(shapes.QUOTA.required, 5) | {"region": "london"}],
            AccountQuestion.RECORD: RECORD,
            AccountQuestion.INFORMATION: INFORMATION,
            AccountQuestion.SERVER_TIME: {"time": "t", "brokerTime": "b"},
            AccountQuestion.CREDITS: CREDITS,
            "deals": [DEAL | {"time": "1"}, DEAL | {"time": "2"}],
        }

    def _answer(self, question):
        answer = self.of[question]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def of_token(self, question, _token):
        """Answer for a token."""
        return self._answer(question)

    async def of_account(self, question, _remote):
        """Answer for an account."""
        return self._answer(question)

    async def deals(self, _remote, *, start, end):
        """Answer with a page."""
        assert end - start == timedelta(days=90)
        return self._answer("deals")


@pytest.fixture
def raw():
    """Give answers as known."""
    return Raw()


def ports(raw):
    """Build what a look is made with."""
    clock = VirtualClock()
    return InspectionPorts(
        raw=raw,
        gate=new_governor(clock=clock, metrics=Metrics(CollectorRegistry())),
        clock=clock,
        settings=GovernorSettings(),
    )


async def look(raw):
    """Make every check; return the findings by name."""
    token = TokenInspector("main", ports=ports(raw))
    account = AccountInspector(REMOTE, deployed=1, ports=ports(raw))
    return {each.check: each for each in (*await token.look(), *await account.look())}


async def test_what_is_as_known_is_good(raw):
    """Ten checks, none of them worth a word."""
    findings = await look(raw)
    assert len(findings) == 10
    assert {each.verdict for each in findings.values()} == {Verdict.AS_KNOWN}
    assert is_good(list(findings.values()))


OTHERWISE = [
    (TokenQuestion.ACCOUNTS, {"count": 1, "items": []}, "token", "without"),
    (TokenQuestion.ACCOUNTS, [RECORD | {"newField": 1}], "token", "unknown: newField"),
    (TokenQuestion.DISCOVERY, "d", "discovery", "a str"),
    (TokenQuestion.REGIONS, {"regions": []}, "regions", "an object of regions"),
    (TokenQuestion.QUOTAS, [{"region": "london"}], "quotas", "without maxAccounts"),
    (AccountQuestion.RECORD, {"_id": "a-1"}, "account", "without"),
    (AccountQuestion.INFORMATION, {**INFORMATION, "odd": 1}, "account information", "odd"),
    (
        AccountQuestion.INFORMATION,
        {name: value for name, value in INFORMATION.items() if name != "currencyDigits"},
        "account information",
        "1 read",
    ),
    ("deals", {"deals": [], "synchronizing": False}, "history page", "unknown: deals"),
    ("deals", [DEAL | {"time": "2"}, DEAL | {"time": "1"}], "history page", "in no order"),
    ("deals", [{"id": "1"}], "history page", "without"),
    (AccountQuestion.SERVER_TIME, {"serverTime": 1}, "server time", "unknown: serverTime"),
    (AccountQuestion.CREDITS, {}, "credits", "nothing that we can read"),
    (
        AccountQuestion.CREDITS,
        CREDITS | {"perUser": [{"period": "1h", "total": 180_000, "available": 0}]},
        "credits",
        "user 180000/3600s",
    ),
]


@pytest.mark.parametrize(("question", "answer", "check", "words"), OTHERWISE)
async def test_what_is_otherwise_is_named(raw, question, answer, check, words):
    """One check differs and says how; the others are as known."""
    raw.of[question] = answer
    findings = await look(raw)
    assert {name for name, each in findings.items() if each.verdict is Verdict.DIFFERS} == {check}
    assert words in findings[check].seen
    assert not is_good(list(findings.values()))


async def test_what_fails_says_why_and_stands_by_itself(raw):
    """A 503 to one question is that question's failure."""
    raw.of[TokenQuestion.QUOTAS] = RemoteUnavailable("503")
    findings = await look(raw)
    failed = [each for each in findings.values() if each.verdict is Verdict.FAILED]
    assert [(each.check, each.seen) for each in failed] == [("quotas", "remote_unavailable: 503")]


async def test_which_account_is_looked_at(raw):
    """The one that is named, else the first that is up; none when there is none."""
    down = RECORD | {"_id": "a-0", "state": "UNDEPLOYED", "reliability": "regular"}
    raw.of[TokenQuestion.ACCOUNTS] = [down, RECORD, "nonsense"]
    token = TokenInspector("main", ports=ports(raw))
    await token.look()
    assert token.choose(None) == REMOTE
    assert token.choose("a-0") == replace(REMOTE, account_id="a-0")
    assert token.choose("a-9") is None
    assert token.deployed == 1
    raw.of[TokenQuestion.ACCOUNTS] = [down]
    await token.look()
    assert token.choose(None) is None


async def test_a_bug_is_not_a_finding():
    """Only failures of our own tree are."""

    async def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await tried("anything", broken)


# The proof.


def remote_of(world):
    """Name a world's account."""
    return world.state.accounts[world.account_id].spec.metaapi


async def test_a_balance_is_proven_from_history():
    """All pages, each deal once, equal to the balance."""
    world = World()
    world.book_many(1_300)
    finding, history = await prove(remote_of(world), rest=world.service, clock=world.clock)
    assert finding.verdict is Verdict.AS_KNOWN
    assert history.deal_ids == set(world.truth)
    assert f"{len(world.truth)} deals" in finding.seen


async def test_a_deal_that_is_hidden_fails_the_proof():
    """The difference is named to the cent."""
    world = World()
    world.service.hidden = {world.book("-7.25")}
    finding, _ = await prove(remote_of(world), rest=world.service, clock=world.clock)
    assert finding.verdict is Verdict.FAILED
    assert "-7.25" in finding.seen


async def test_a_type_that_nobody_mapped_leaves_the_proof_open():
    """Its name is worth a line."""
    world = World()
    world.book("5.00", type="DEAL_TYPE_BONUS")
    finding, _ = await prove(remote_of(world), rest=world.service, clock=world.clock)
    assert finding.verdict is Verdict.DIFFERS
    assert "DEAL_TYPE_BONUS" in finding.seen


async def test_an_account_that_trades_is_read_again_and_not_for_ever():
    """One deal between the readings is waited out; one in each attempt is not."""
    world = World()
    readings = iter([False, True])
    world.service.before_reading = lambda: next(readings, False) and world.book("-1.00")
    finding, _ = await prove(remote_of(world), rest=world.service, clock=world.clock)
    assert finding.verdict is Verdict.AS_KNOWN
    world.service.before_reading = lambda: world.book("-1.00")
    with pytest.raises(Incomplete):
        await prove(remote_of(world), rest=world.service, clock=world.clock)


async def test_history_that_is_incomplete_proves_nothing():
    """MetaApi says so itself."""
    world = World()
    world.switch_on(FaultKind.SYNCHRONIZING)
    with pytest.raises(Synchronizing):
        await prove(remote_of(world), rest=world.service, clock=world.clock)


# The stream.


async def test_a_stream_is_watched_until_it_is_synchronized_and_closed():
    """Terminal, the whole history, some heartbeats; nothing stays open."""
    world = World()
    heard = await watch(
        remote_of(world),
        stream=world.service,
        account=await world.service.account(remote_of(world)),
        since=BEGINNING,
        clock=world.clock,
    )
    finding = judged(heard, history=frozenset(world.truth))
    assert finding.verdict is Verdict.AS_KNOWN, finding
    assert heard.heartbeats >= 1
    assert world.service.open_sessions == 0


async def test_a_stream_that_never_synchronizes_is_given_up_and_closed():
    """In bounded time."""
    world = World()
    world.switch_on(FaultKind.MUTE)
    with pytest.raises(TimedOut):
        await watch(
            remote_of(world),
            stream=world.service,
            account=await world.service.account(remote_of(world)),
            since=BEGINNING,
            clock=world.clock,
        )
    assert world.service.open_sessions == 0


def test_what_the_stream_lacked_is_counted():
    """Deals made meanwhile are no difference, missing ones and silence are."""
    one, two = DealId("1"), DealId("2")
    heard = Heard()
    for event in (Connected(), Synchronized(), BrokerStatus(is_connected=True), Gap(reason="x")):
        heard.add(event, at=1.5)
    heard.deal_ids = {one, two}
    assert judged(heard, history=frozenset({one})).verdict is Verdict.AS_KNOWN
    heard.deal_ids = {two}
    assert "1 of history missing" in judged(heard, history=frozenset({one})).seen
    assert judged(heard, history=frozenset({one})).verdict is Verdict.DIFFERS
    silent = Heard(connected_at=1.0, synchronized_at=2.0, deal_ids={one})
    assert judged(silent, history=frozenset({one})).verdict is Verdict.DIFFERS


def test_what_was_not_checked_is_no_fault():
    """Nor is it praise."""
    skipped = Finding(check="stream", verdict=Verdict.NOT_CHECKED, seen="asked for by --stream")
    assert is_good([skipped])
