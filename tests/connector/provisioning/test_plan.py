"""The one step that a situation calls for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokerd.config.settings import ProvisioningSettings
from brokerd.connector.ports import RemoteAccount
from brokerd.connector.provisioning.plan import (
    REMEMBERED,
    Act,
    Adopt,
    Goal,
    Refuse,
    Situation,
    Step,
    plan,
)
from brokerd.connector.provisioning.ports import (
    CHARGEABLE,
    Auth,
    CredentialState,
    Intent,
    IntentKind,
    KnownCredentials,
    Refusal,
    Standing,
)
from brokerd.domain import Platform
from brokerd.errors import (
    AuthFailed,
    AuthSuspected,
    CredentialsMissing,
    KnownBadCredentials,
    NotDeployed,
    NotFound,
    ProvisionTimeout,
    ServerNotFound,
    ValidationLocked,
)

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
SETTINGS = ProvisioningSettings()
C, K = CredentialState, IntentKind
STATES = (
    *("CREATED", "DEPLOYING", "DEPLOYED", "DEPLOY_FAILED", "UNDEPLOYING", "UNDEPLOYED"),
    *("UNDEPLOY_FAILED", "DELETING", "DELETE_FAILED", "REDEPLOY_FAILED", "DRAFT", "SOMETHING_NEW"),
)


def ago(**span: float) -> datetime:
    """Return a moment in the past."""
    return NOW - timedelta(**span)


def account(state: str, *, account_id: str = "m-1", status: str = "DISCONNECTED") -> RemoteAccount:
    """Build an account in a state."""
    return RemoteAccount(
        account_id=account_id,
        state=state,
        connection_status=status,
        platform=Platform.MT5,
        login="5016",
        server="Demo",
        region="london",
        reliability="high",
    )


def credentials(state: CredentialState, *, is_known_bad: bool = False) -> KnownCredentials:
    """Build what is known of a password."""
    return KnownCredentials(version=3, state=state, is_known_bad=is_known_bad)


def intent(kind: IntentKind, *, opened_at: datetime = NOW, version: int = 3) -> Intent:
    """Build an open intent."""
    return Intent(
        intent_id=1,
        kind=kind,
        transaction_id="t" * 32,
        credential_version=version,
        opened_at=opened_at,
    )


def decide(
    goal: Goal = Goal.DEPLOYED,
    remote: RemoteAccount | None = None,
    *,
    named_id: str | None = None,
    **standing: object,
) -> object:
    """Ask for the next step."""
    situation = Situation(
        goal=goal, named_id=named_id, remote=remote, standing=Standing(now=NOW, **standing)
    )
    return plan(situation, settings=SETTINGS)


def refusal(decision: object) -> Exception:
    """Return why nothing is done."""
    assert isinstance(decision, Refuse), decision
    return decision.failure


# Creating.


def test_an_account_is_created_with_the_password_that_waits():
    """Nobody has it: it is created."""
    assert decide(credentials=credentials(C.WAITING)) == Act(kind=K.CREATE)


def test_without_a_password_there_is_nothing_to_create_with():
    """Whoever must act is told; the same after the account vanished with its password erased."""
    assert type(refusal(decide())) is CredentialsMissing
    assert type(refusal(decide(credentials=credentials(C.ACCEPTED)))) is CredentialsMissing


@pytest.mark.parametrize("goal", Goal)
def test_an_account_that_is_gone_is_forgotten_first(goal):
    """Whatever is wanted: what was created is not there any more."""
    assert decide(goal, created_id="m-1", credentials=credentials(C.WAITING)) is Step.FORGET


def test_an_account_of_the_identity_is_adopted_instead_of_bought_again():
    """Whatever is known of ours, the account that exists is taken."""
    found = account("DEPLOYED", account_id="m-2")
    assert decide(remote=found, credentials=credentials(C.WAITING)) == Adopt(account_id="m-2")
    assert decide(remote=found, created_id="m-1") == Adopt(account_id="m-2")


def test_an_account_that_the_spec_names_is_never_created():
    """The client's id is wrong, or somebody removed it."""
    decision = decide(named_id="m-9", credentials=credentials(C.WAITING))
    assert type(refusal(decision)) is NotFound
    assert "m-9" in str(refusal(decision))


# Known to be refused.


@pytest.mark.parametrize("remote", [None, account("UNDEPLOYED"), account("DEPLOYED")])
def test_known_bad_credentials_cost_nothing(remote):
    """Neither a creation, nor an update, nor a deployment is tried with them."""
    bad = credentials(C.WAITING, is_known_bad=True)
    decision = decide(remote=remote, created_id="m-1" if remote else None, credentials=bad)
    assert type(refusal(decision)) is KnownBadCredentials


def test_what_the_broker_refused_stays_refused():
    """No retry, until another password waits or somebody else helped the account."""
    failed = {"created_id": "m-1", "auth": Auth.FAILED, "auth_at": ago(days=30)}
    assert type(refusal(decide(remote=account("UNDEPLOYED"), **failed))) is AuthFailed
    assert type(refusal(decide(remote=account("DEPLOYED"), **failed))) is AuthFailed
    helped = account("DEPLOYED", status="CONNECTED")
    assert decide(remote=helped, **failed) is Step.DONE
    waiting = credentials(C.WAITING)
    assert decide(remote=account("DEPLOYED"), credentials=waiting, **failed) == Act(kind=K.UPDATE)


def test_a_suspicion_is_confirmed_once_and_not_at_once():
    """A quarter of an hour later the deployment is tried again."""
    suspected = {"created_id": "m-1", "auth": Auth.SUSPECTED}
    early = refusal(decide(remote=account("UNDEPLOYED"), auth_at=ago(minutes=5), **suspected))
    assert isinstance(early, AuthSuspected)
    assert early.retry_after_seconds == 600
    late = decide(remote=account("UNDEPLOYED"), auth_at=ago(minutes=15), **suspected)
    assert late == Act(kind=K.DEPLOY)


@pytest.mark.parametrize(
    ("remote", "state"),
    [(None, C.WAITING), (account("UNDEPLOYED"), C.ACCEPTED), (account("DEPLOYED"), C.WAITING)],
)
def test_a_validation_lock_is_waited_for(remote, state):
    """While MetaApi looks at no credentials, right ones would be refused too."""
    locked = decide(
        remote=remote,
        created_id="m-1" if remote else None,
        credentials=credentials(state),
        locked_until=NOW + timedelta(minutes=20),
    )
    failure = refusal(locked)
    assert isinstance(failure, ValidationLocked)
    assert failure.retry_after_seconds == 1200


def test_a_refusal_is_remembered_for_a_day():
    """It is given again without asking; then it is worth asking again."""
    waiting = credentials(C.WAITING)
    fresh = Refusal(code="server_not_found", problem="none such", at=ago(hours=23))
    failure = refusal(decide(credentials=waiting, refusal=fresh))
    assert type(failure) is ServerNotFound
    assert str(failure) == "none such"
    old = replace(fresh, at=ago(hours=24))
    assert decide(credentials=waiting, refusal=old) == Act(kind=K.CREATE)


@pytest.mark.parametrize("code", ["quota", "billing", "auth_failed", "validation_locked", "held"])
def test_what_others_can_mend_is_asked_again(code):
    """A quota that was raised, or money that was paid, shows only by asking, which is free."""
    told = Refusal(code=code, problem="", at=NOW)
    assert decide(credentials=credentials(C.WAITING), refusal=told) == Act(kind=K.CREATE)


# Deploying.


@pytest.mark.parametrize("named_id", ["m-1", None])
def test_a_deployed_account_needs_nothing(named_id):
    """Named by the spec or created by us."""
    deployed = account("DEPLOYED")
    assert decide(remote=deployed, named_id=named_id, created_id="m-1") is Step.DONE


@pytest.mark.parametrize("state", ["CREATED", "DEPLOYING", "UNDEPLOYING", "DELETING"])
def test_what_passes_by_itself_is_waited_for(state):
    """Nothing is ordered meanwhile."""
    assert decide(remote=account(state), named_id="m-1") is Step.WAIT


def test_an_undeployed_account_is_deployed():
    """It is what the client wants."""
    assert decide(remote=account("UNDEPLOYED"), named_id="m-1") == Act(kind=K.DEPLOY)


@pytest.mark.parametrize("state", ["DEPLOY_FAILED", "REDEPLOY_FAILED", "UNDEPLOY_FAILED"])
def test_a_failed_deployment_is_repeated_as_often_as_it_is_paid_for(state):
    """Each start is billed for six hours, so more often would be waste."""
    failed = account(state)
    assert decide(remote=failed, named_id="m-1") == Act(kind=K.DEPLOY)
    recent = decide(remote=failed, named_id="m-1", deployed_at=ago(hours=5))
    assert type(refusal(recent)) is NotDeployed
    assert f"is {state}; brokerd deploys it again 6 h after" in str(refusal(recent))
    assert decide(remote=failed, named_id="m-1", deployed_at=ago(hours=6)) == Act(kind=K.DEPLOY)


@pytest.mark.parametrize("state", ["DRAFT", "SOMETHING_NEW"])
def test_a_state_we_cannot_leave_says_so(state):
    """Somebody must finish it in MetaApi."""
    failure = refusal(decide(remote=account(state), named_id="m-1"))
    assert type(failure) is NotDeployed
    assert f"is {state}" in str(failure)


# Another password.


def test_another_password_is_given_and_then_taken_into_use():
    """Update, undeploy, deploy: each step shows in the account's state."""
    known = {"named_id": "m-1"}
    waiting, updated = credentials(C.WAITING), credentials(C.UPDATED)
    assert decide(remote=account("DEPLOYED"), credentials=waiting, **known) == Act(kind=K.UPDATE)
    assert decide(remote=account("DEPLOYED"), credentials=updated, **known) == Act(kind=K.UNDEPLOY)
    assert decide(remote=account("DEPLOYING"), credentials=updated, **known) == Act(kind=K.UNDEPLOY)
    assert decide(remote=account("UNDEPLOYED"), credentials=updated, **known) == Act(kind=K.DEPLOY)
    accepted = credentials(C.ACCEPTED)
    assert decide(remote=account("DEPLOYED"), credentials=accepted, **known) is Step.DONE


def test_an_undeployed_account_gets_its_password_first():
    """Deploying with the old one would be a failed attempt."""
    undeployed = account("UNDEPLOYED")
    decision = decide(remote=undeployed, named_id="m-1", credentials=credentials(C.WAITING))
    assert decision == Act(kind=K.UPDATE)


# An open intent.


def test_an_open_creation_is_looked_up_before_it_is_asked_again():
    """Found: it was bought. Not found: the same transaction, which MetaApi does once."""
    asked = {"intent": intent(K.CREATE), "credentials": credentials(C.WAITING)}
    assert decide(remote=account("DEPLOYING"), **asked) == Adopt(account_id="m-1")
    assert decide(**asked) == Act(kind=K.CREATE)
    locked = decide(locked_until=NOW + timedelta(minutes=1), **asked)
    assert type(refusal(locked)) is ValidationLocked


@pytest.mark.parametrize("goal", [Goal.UNDEPLOYED, Goal.REMOVED])
def test_a_creation_that_nobody_wants_any_more_is_not_asked_again(goal):
    """It may still come to be for a while; if it does, it is put away like any other."""
    asked = intent(K.CREATE, opened_at=ago(minutes=14))
    assert type(refusal(decide(goal, intent=asked))) is ProvisionTimeout
    assert decide(goal, intent=replace(asked, opened_at=ago(minutes=15))) is Step.ABANDON
    assert decide(goal, account("DEPLOYED"), intent=asked) == Adopt(account_id="m-1")


@pytest.mark.parametrize("state", ["DEPLOYED", "DEPLOYING", "DEPLOY_FAILED", "DELETING"])
def test_a_deployment_that_shows_is_not_bought_twice(state):
    """Whoever ordered it died before the answer came."""
    decision = decide(remote=account(state), named_id="m-1", intent=intent(K.DEPLOY))
    assert decision is Step.SETTLE


def test_a_deployment_that_does_not_show_is_ordered_under_its_intent():
    """The process died between the commit and the call."""
    opened = intent(K.DEPLOY)
    assert decide(remote=account("UNDEPLOYED"), named_id="m-1", intent=opened) == Act(kind=K.DEPLOY)
    assert decide(remote=None, named_id="m-1", intent=opened) is Step.ABANDON
    stopped = decide(Goal.UNDEPLOYED, account("UNDEPLOYED"), named_id="m-1", intent=opened)
    assert stopped is Step.ABANDON


def test_an_update_is_repeated_with_its_own_password():
    """The same password again does no harm; one that nobody needs now goes on waiting."""
    opened = intent(K.UPDATE, version=2)
    assert decide(remote=account("DEPLOYED"), named_id="m-1", intent=opened) == Act(kind=K.UPDATE)
    assert decide(remote=None, named_id="m-1", intent=opened) is Step.ABANDON
    stopped = decide(Goal.UNDEPLOYED, account("DEPLOYED"), named_id="m-1", intent=opened)
    assert stopped is Step.ABANDON


@pytest.mark.parametrize(
    ("kind", "goal", "ended", "running"),
    [
        (K.UNDEPLOY, Goal.UNDEPLOYED, ("UNDEPLOYED", "UNDEPLOYING", None), "DEPLOYED"),
        (K.DELETE, Goal.REMOVED, ("DELETING", None), "UNDEPLOYED"),
    ],
)
def test_what_ends_an_account_is_seen_in_its_state(kind, goal, ended, running):
    """Ended: settled. Not ended: ordered again, unless it is wanted again."""
    for state in ended:
        remote = None if state is None else account(state)
        assert decide(goal, remote, named_id="m-1", intent=intent(kind)) is Step.SETTLE
    assert decide(goal, account(running), named_id="m-1", intent=intent(kind)) == Act(kind=kind)
    wanted = decide(Goal.DEPLOYED, account(running), named_id="m-1", intent=intent(kind))
    assert wanted is Step.ABANDON


# Putting away.


@pytest.mark.parametrize(
    ("state", "stopped", "removed"),
    [
        (None, Step.DONE, Step.DONE),
        ("DEPLOYED", K.UNDEPLOY, K.UNDEPLOY),
        ("DEPLOYING", K.UNDEPLOY, K.UNDEPLOY),
        ("CREATED", K.UNDEPLOY, K.UNDEPLOY),
        ("DEPLOY_FAILED", K.UNDEPLOY, K.UNDEPLOY),
        ("UNDEPLOY_FAILED", K.UNDEPLOY, K.UNDEPLOY),
        ("UNDEPLOYING", Step.WAIT, Step.WAIT),
        ("UNDEPLOYED", Step.DONE, K.DELETE),
        ("DRAFT", Step.DONE, K.DELETE),
        ("DELETING", Step.DONE, Step.WAIT),
        ("DELETE_FAILED", K.UNDEPLOY, K.DELETE),
    ],
)
def test_an_account_is_undeployed_before_it_is_removed(state, stopped, removed):
    """And what is gone needs nothing more."""
    for goal, expected in ((Goal.UNDEPLOYED, stopped), (Goal.REMOVED, removed)):
        decision = decide(goal, None if state is None else account(state), named_id="m-1")
        assert decision == (Act(kind=expected) if isinstance(expected, IntentKind) else expected)


def test_no_password_is_needed_to_put_an_account_away():
    """Whatever was refused before: what costs by the hour is stopped."""
    decision = decide(
        Goal.UNDEPLOYED,
        account("DEPLOYED"),
        created_id="m-1",
        auth=Auth.FAILED,
        credentials=credentials(C.WAITING, is_known_bad=True),
        locked_until=NOW + timedelta(hours=1),
    )
    assert decision == Act(kind=K.UNDEPLOY)


# All of it.

MOMENTS = st.sampled_from([None, ago(days=40), ago(hours=1), ago(minutes=1)])
SITUATIONS = st.builds(
    Situation,
    goal=st.sampled_from(Goal),
    named_id=st.sampled_from([None, "m-1"]),
    remote=st.none() | st.builds(account, st.sampled_from(STATES)),
    standing=st.builds(
        Standing,
        now=st.just(NOW),
        created_id=st.sampled_from([None, "m-1", "m-2"]),
        credentials=st.none()
        | st.builds(credentials, st.sampled_from(C), is_known_bad=st.booleans()),
        intent=st.none() | st.builds(intent, st.sampled_from(K), opened_at=st.just(ago(hours=1))),
        refusal=st.none()
        | st.builds(
            Refusal,
            code=st.sampled_from([*REMEMBERED, "quota"]),
            problem=st.just("refused"),
            at=st.just(ago(hours=1)),
        ),
        auth=st.sampled_from(Auth),
        auth_at=MOMENTS,
        locked_until=st.sampled_from([None, NOW + timedelta(hours=1)]),
        deployed_at=MOMENTS,
        watermark=MOMENTS,
    ),
)


@given(SITUATIONS)
def test_nothing_that_is_known_to_be_refused_is_ever_paid_for(situation):
    """Whatever the situation, a chargeable call is made only where nothing speaks against it."""
    decision = plan(situation, settings=SETTINGS)
    standing = situation.standing
    if not isinstance(decision, Act) or decision.kind not in CHARGEABLE:
        return
    assert situation.goal is Goal.DEPLOYED
    assert standing.locked_until is None
    if standing.intent is not None:
        assert decision.kind is standing.intent.kind
        return
    known = standing.credentials
    assert known is None or not known.is_known_bad
    assert standing.auth is not Auth.FAILED or known is None or known.state is C.WAITING
    assert standing.refusal is None or standing.refusal.code == "quota"
    if decision.kind is K.CREATE:
        assert situation.remote is None
        assert known is not None
        assert known.state is C.WAITING


@given(SITUATIONS)
def test_an_open_intent_comes_before_everything_else(situation):
    """No other call is made until its end is known, and nothing is done as if there were none."""
    decision = plan(situation, settings=SETTINGS)
    opened = situation.standing.intent
    if opened is None:
        assert decision not in {Step.SETTLE, Step.ABANDON}
    elif isinstance(decision, Act):
        assert decision.kind is opened.kind
    else:
        assert decision not in {Step.DONE, Step.WAIT}
