"""Who is settled, who is not, and who gives way to whom after the freeze."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from brokerd.api.bodies import (
    DesiredWord,
    IdentityBody,
    LinkBody,
    MetaApiBody,
    MetadataBody,
    SpecBody,
    StatusBody,
    SyncBody,
)
from brokerd.demo.ledger import Sums
from brokerd.demo.settle import Settlement
from brokerd.demo.tally import Facts, LedgerRow, TruthRow
from brokerd.demo.truth import AccountTruth
from brokerd.domain import Phase, Platform, Proof, UserAction

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FACTS = Facts(
    type="DEAL_TYPE_BALANCE",
    entry=None,
    symbol=None,
    volume=None,
    price=None,
    time=NOON,
    profit=Decimal(100),
    commission=Decimal(0),
    swap=Decimal(0),
    order_id=None,
    position_id=None,
)


def link(name, *, phase=Phase.LIVE, proof=Proof.PROVEN, audited_seconds=1):
    """Return a link as the control API shows it."""
    return LinkBody(
        id=name,
        metadata=MetadataBody(generation=1, resource_version="1", created_at=NOON),
        spec=SpecBody(
            user_id="u",
            desired=DesiredWord.LIVE,
            metaapi=MetaApiBody(token="main", account_id="m", region="london"),
            identity=IdentityBody(platform=Platform.MT5, login="1", server="S", currency="USD"),
        ),
        status=StatusBody(
            observed_generation=1,
            phase=phase,
            node=None,
            lease_epoch=1,
            since=NOON,
            next_attempt_at=None,
            attempt=0,
            queue=None,
            sync=SyncBody(
                watermark=NOON,
                lag_seconds=0.0,
                deals=1,
                open_gaps=0,
                balance_proof=proof,
                last_audit_at=NOON + timedelta(seconds=audited_seconds),
            ),
            user_action=UserAction.NONE,
            metaapi_account_id="m",
            credential_version=0,
            conditions=[],
        ),
    )


def settlement(*names):
    """Return a settlement of accounts with one deal each."""
    truth = {
        name: AccountTruth(
            rows={(name, "1"): TruthRow(facts=FACTS, booked_at=NOON)},
            sums=Sums(balance=Decimal(100), credit=Decimal(0)),
        )
        for name in names
    }
    return Settlement(quiet_at=NOON, truth=truth)


def rows(name, *deals):
    """Return the ledger of a link."""
    return {
        (name, deal): LedgerRow(facts=FACTS, source="stream", committed_at=NOON) for deal in deals
    }


@pytest.mark.parametrize(
    ("changes", "is_candidate"),
    [
        ({}, True),
        ({"audited_seconds": -1}, False),
        ({"audited_seconds": 0}, False),
        ({"proof": Proof.MISMATCH}, False),
        ({"proof": Proof.UNKNOWN}, False),
    ],
)
def test_only_a_proof_made_after_the_freeze_counts(changes, is_candidate):
    """What was proven before says nothing of what was traded since."""
    state = settlement("a")
    assert (state.note_proofs([link("a", **changes)]) == {"a"}) is is_candidate
    assert (state.proven == {"a"}) is is_candidate


@pytest.mark.parametrize(
    ("deals", "is_settled"), [(("1",), True), ((), False), (("1", "2"), False), (("2",), False)]
)
def test_a_proven_link_is_settled_only_when_it_equals_the_truth(deals, is_settled):
    """A missing or an invented deal keeps it open, whatever its proof says."""
    state = settlement("a")
    state.note_proofs([link("a")])
    state.note_rows({"a"}, rows("a", *deals))
    assert state.is_over is is_settled


def test_a_settled_link_is_not_compared_again():
    """Only the others are read."""
    state = settlement("a", "b")
    state.note_rows({"a"}, rows("a", "1"))
    assert state.note_proofs([link("a"), link("b")]) == {"b"}


def test_settled_links_give_way_one_for_each_that_waits():
    """One waits, so one of the two settled ones is paused; the unsettled one keeps its slot."""
    state = settlement("a", "b", "c", "d")
    state.settled = {"a", "b"}
    links = [link("a"), link("b"), link("c"), link("d", phase=Phase.QUEUED)]
    assert state.to_pause(links) == ["a"]


def test_nobody_is_paused_while_nobody_waits():
    """Without a queue every link stays live; one that was paused is not waited for."""
    state = settlement("a", "b")
    state.settled = state.paused = {"a"}
    assert state.to_pause([link("a", phase=Phase.QUEUED), link("b")]) == []
