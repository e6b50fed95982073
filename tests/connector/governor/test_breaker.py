"""When a breaker opens, who may probe, and what closes it."""

from dataclasses import replace

import pytest

from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.breaker import (
    Breaker,
    Cause,
    State,
    failed,
    has_probe,
    is_probed,
    probing,
    released,
    rules,
    state,
    succeeded,
)
from brokerd.connector.governor.circuits import Circuit, circuits_of, told
from brokerd.connector.governor.ports import Call, Service
from brokerd.domain import UserAction
from brokerd.errors import (
    Forbidden,
    InvalidRequest,
    LinkLost,
    MalformedAnswer,
    NotConnected,
    NotFound,
    RemoteUnavailable,
    Synchronizing,
    Throttled,
    TlsInvalid,
    TopUpRequired,
    Unauthorized,
)

RULES = rules(GovernorSettings())
OUTAGE, REFUSAL, BILLING = RULES[Cause.SERVER], RULES[Cause.TOKEN], RULES[Cause.BILLING]


def call(account="a-1", method="deals", **changes):
    """Build a call of an account."""
    made = Call(
        service=Service.CLIENT, method=method, token="main", region="london", account_id=account
    )
    return replace(made, **changes)


def opened(rule=OUTAGE, now=0.0):
    """Return a breaker that has just opened."""
    breaker = Breaker()
    for number in range(rule.callers):
        breaker = failed(breaker, rule, call=call(f"a-{number}"), now=now)
    return breaker


def test_an_outage_opens_it_after_so_many_callers():
    """Four of five are not enough."""
    breaker = Breaker()
    for number in range(4):
        breaker = failed(breaker, OUTAGE, call=call(f"a-{number}"), now=0.0)
        assert state(breaker, now=0.0) is State.CLOSED
    assert state(failed(breaker, OUTAGE, call=call("a-5"), now=0.0), now=0.0) is State.OPEN


def test_one_account_alone_opens_nothing():
    """What is wrong with it says little of the others."""
    breaker = Breaker()
    for _ in range(100):
        breaker = failed(breaker, OUTAGE, call=call(), now=0.0)
    assert state(breaker, now=0.0) is State.CLOSED


def test_a_success_between_failures_forgives_them():
    """Only failures in a row count, and only those of a minute."""
    breaker = Breaker()
    for number in range(4):
        breaker = failed(breaker, OUTAGE, call=call(f"a-{number}"), now=0.0)
    assert succeeded(breaker, OUTAGE, call=call(), now=0.0) == Breaker()
    late = failed(breaker, OUTAGE, call=call("a-9"), now=61.0)
    assert late.failed == {"a-9"}


def test_a_refusal_opens_it_at_once():
    """The first 401 speaks for every link of the token, for fifteen minutes."""
    breaker = failed(Breaker(), REFUSAL, call=call(), now=100.0)
    assert state(breaker, now=999.9) is State.OPEN
    assert state(breaker, now=1_000.0) is State.HALF_OPEN


def test_probes_of_an_outage_grow_apart_up_to_a_minute():
    """Each probe that fails doubles the wait; a hint makes it longer."""
    breaker, now, waits = opened(), 0.0, []
    for _ in range(9):
        waits.append(breaker.wait_seconds)
        now = breaker.until
        breaker = failed(breaker, OUTAGE, call=call(), now=now)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    hinted = failed(breaker, OUTAGE, call=call(), now=breaker.until, hint_seconds=300.0)
    assert hinted.wait_seconds == 300.0


def test_probes_of_a_refusal_stay_fifteen_minutes_apart():
    """Neither more often nor, after a week, once a day."""
    breaker = opened(REFUSAL)
    for _ in range(10):
        breaker = failed(breaker, REFUSAL, call=call(), now=breaker.until)
        assert breaker.wait_seconds == 900.0


def test_what_was_sent_before_it_opened_changes_nothing():
    """A straggler's failure does not lengthen the wait, its success does not close it."""
    breaker = opened()
    assert failed(breaker, OUTAGE, call=call("a-9"), now=0.5) == breaker
    assert succeeded(breaker, OUTAGE, call=call("a-9"), now=0.5) == breaker


def test_one_caller_probes_at_a_time():
    """Others wait for what it says; who falls silent loses the probe after a minute."""
    breaker = probing(opened(), call=call("a-1"), now=1.0)
    assert has_probe(breaker, call=call("a-1"), now=2.0)
    assert not is_probed(breaker, call=call("a-1"), now=2.0)
    assert is_probed(breaker, call=call("a-2"), now=2.0)
    assert not is_probed(breaker, call=call("a-2"), now=61.0)
    assert not is_probed(released(breaker, call=call("a-1")), call=call("a-2"), now=2.0)
    assert released(breaker, call=call("a-2")) == breaker


def test_a_free_call_does_not_prove_that_there_is_money():
    """Only the kind of call that was refused does; the prober keeps its probe until then."""
    breaker = failed(Breaker(), BILLING, call=call(method="deals"), now=0.0)
    breaker = probing(breaker, call=call(), now=900.0)
    assert succeeded(breaker, BILLING, call=call(method="account"), now=901.0) == breaker
    assert succeeded(breaker, BILLING, call=call(method="deals"), now=902.0) == Breaker()
    discovery = call(None, "discovery")
    asked = probing(breaker, call=discovery, now=900.0)
    assert succeeded(asked, BILLING, call=discovery, now=901.0).prober is None


GOOD = {
    "all": frozenset(Cause),
    "known": {Cause.TLS, Cause.TRANSPORT, Cause.SERVER, Cause.TOKEN},
    "served": {Cause.TLS, Cause.TRANSPORT, Cause.SERVER},
    "reached": {Cause.TLS, Cause.TRANSPORT},
    "own": {Cause.TLS, Cause.TRANSPORT, Cause.TOKEN},
    "none": set(),
}


@pytest.mark.parametrize(
    ("failure", "is_answered", "good", "bad"),
    [
        (None, True, "all", None),
        (TlsInvalid("expired"), False, "none", Cause.TLS),
        (RemoteUnavailable("refused"), False, "none", Cause.TRANSPORT),
        (RemoteUnavailable("503"), True, "reached", Cause.SERVER),
        (Unauthorized("401"), True, "served", Cause.TOKEN),
        (TopUpRequired("402"), True, "known", Cause.BILLING),
        (Forbidden("403"), True, "known", None),
        (NotFound("404"), True, "known", None),
        (Throttled("429", retry_after_seconds=1.0), True, "known", None),
        (NotConnected("504"), True, "own", None),
        (Synchronizing("500"), True, "own", None),
        (MalformedAnswer("HTML"), True, "reached", None),
        (MalformedAnswer("compression"), False, "none", None),
        (InvalidRequest("the URL is none"), False, "none", None),
        (LinkLost("not REST"), False, "none", None),
    ],
    ids=repr,
)
def test_what_an_end_says_of_each_cause(failure, is_answered, good, bad):
    """An answer proves what it took to get it, and blames one cause at most."""
    verdicts = told(call(), failure, is_answered=is_answered)
    assert {circuit.cause for circuit, is_good in verdicts.items() if is_good} == GOOD[good]
    assert {circuit.cause for circuit, is_good in verdicts.items() if not is_good} == (
        {bad} if bad else set()
    )


def test_scopes_of_the_causes():
    """Places break by service and region, tokens and money by token."""
    spelt = {str(circuit) for circuit in circuits_of(call())}
    assert spelt == {
        "tls_invalid:client:london",
        "transport:client:london",
        "server:client:london",
        "unauthorized:user:main",
        "billing:user:main",
    }


def test_a_refused_expense_holds_expenses_alone():
    """Reading goes on; a reading that is refused for money holds everything of the token."""
    refusal = TopUpRequired("top up")
    deploy = call(method="deploy", is_spending=True)
    spending = Circuit(cause=Cause.BILLING, scope="spending:main")
    user = Circuit(cause=Cause.BILLING, scope="user:main")
    verdicts = told(deploy, refusal, is_answered=True)
    assert (verdicts[spending], verdicts.get(user)) == (False, None)
    assert spending in circuits_of(deploy)
    assert spending not in circuits_of(call())
    assert told(call(), refusal, is_answered=True)[user] is False


def test_who_must_act():
    """A refusal has somebody; an outage has nobody."""
    actions = {c.cause: c.user_action for c in circuits_of(call())}
    assert actions == {
        Cause.TLS: UserAction.CONTACT_OPERATOR,
        Cause.TRANSPORT: UserAction.NONE,
        Cause.SERVER: UserAction.NONE,
        Cause.TOKEN: UserAction.FIX_TOKEN,
        Cause.BILLING: UserAction.TOP_UP,
    }
