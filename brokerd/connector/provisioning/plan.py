"""What to do next about a link's MetaApi account: one step, from what is wanted and what is.

Theory. The shell looks (at the store, then at MetaApi), asks here, does the one step, and looks
again until it is told that all is done. An open intent comes before everything else: first it is
found out what became of it, from the account's state alone, so that nothing is bought twice. A
new password is given to MetaApi by an update and taken into use by undeploying and deploying, not
by a redeployment: of that one no state tells, after a crash, whether it was made. What was refused
is not asked again until the spec or the password changed, or a day has passed; what is known to be
refused is not asked at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import assert_never

from brokerd.config.settings import ProvisioningSettings
from brokerd.connector.identity import DEPLOYING
from brokerd.connector.ports import RemoteAccount
from brokerd.connector.provisioning.ports import (
    Auth,
    CredentialState,
    Intent,
    IntentKind,
    Standing,
)
from brokerd.errors import (
    AccountDisabled,
    AuthFailed,
    AuthSuspected,
    BrokerdError,
    CredentialsMissing,
    InvalidRequest,
    KnownBadCredentials,
    NoSymbols,
    NotDeployed,
    NotFound,
    OtpRequired,
    PasswordChangeRequired,
    ProvisionTimeout,
    Rejected,
    ResourceSlots,
    ServerNotFound,
    TermsRequired,
    TimezoneUndetected,
    ValidationLocked,
)

CONNECTED = "CONNECTED"
CREATED = "CREATED"
UNDEPLOYED = "UNDEPLOYED"
UNDEPLOYING = "UNDEPLOYING"
DELETING = "DELETING"
DRAFT = "DRAFT"
IN_TRANSITION = (CREATED, DEPLOYING, UNDEPLOYING, DELETING)
"""The states that pass by themselves."""
_FAILED = frozenset({"DEPLOY_FAILED", "REDEPLOY_FAILED", "UNDEPLOY_FAILED", "DELETE_FAILED"})

REMEMBERED: Mapping[str, type[Rejected]] = {
    kind.code: kind
    for kind in (
        InvalidRequest,
        ServerNotFound,
        TimezoneUndetected,
        ResourceSlots,
        NoSymbols,
        TermsRequired,
        OtpRequired,
        PasswordChangeRequired,
        AccountDisabled,
    )
}
"""Refusals that stay true until something changes; asking again can cost, and helps nobody."""


class Goal(StrEnum):
    """Where the account shall be in the end."""

    DEPLOYED = "deployed"
    UNDEPLOYED = "undeployed"
    REMOVED = "removed"


class Step(Enum):
    """A step that needs no more words."""

    DONE = "done"  # the account is where it should be
    WAIT = "wait"  # for a state that passes by itself
    FORGET = "forget"  # the account that was the link's own is gone
    SETTLE = "settle"  # the open intent's call was made, and its end is seen
    ABANDON = "abandon"  # the open intent's call had no effect, and will have none


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Make the call: under the intent that is open, or under a new one."""

    kind: IntentKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """Take the account that was found for the link's own."""

    account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Do nothing, and say why."""

    failure: BrokerdError


Decision = Step | Act | Adopt | Refuse


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is wanted and what is.

    `named_id` is the account that the spec names, if it names one. `remote` is what MetaApi shows
    under the id we know or, as long as we know none, of the registered identity.
    """

    goal: Goal
    named_id: str | None
    standing: Standing
    remote: RemoteAccount | None


def plan(situation: Situation, *, settings: ProvisioningSettings) -> Decision:
    """Say what to do next."""
    intent = situation.standing.intent
    if intent is not None:
        return _resume(situation, intent, settings)
    if situation.goal is Goal.DEPLOYED:
        return _towards_deployed(situation, settings)
    return _towards_gone(situation)


# An open intent.


def _resume(now: Situation, intent: Intent, settings: ProvisioningSettings) -> Decision:
    match intent.kind:
        case IntentKind.CREATE:
            return _resume_create(now, intent, settings)
        case IntentKind.UPDATE:
            return _resume_update(now)
        case IntentKind.DEPLOY:
            return _resume_deploy(now)
        case IntentKind.UNDEPLOY:
            return _resume_ending(now, intent, ended=(UNDEPLOYED, UNDEPLOYING, DELETING, DRAFT))
        case IntentKind.DELETE:
            return _resume_ending(now, intent, ended=(DELETING,))
        case _:
            assert_never(intent.kind)


def _resume_create(now: Situation, intent: Intent, settings: ProvisioningSettings) -> Decision:
    if now.remote is not None:
        return Adopt(account_id=now.remote.account_id)
    if now.goal is Goal.DEPLOYED:
        return _locked(now.standing) or Act(kind=IntentKind.CREATE)  # the same transaction
    # Nobody wants it any more: we do not ask again, but what was asked may still come to be.
    age_seconds = (now.standing.now - intent.opened_at).total_seconds()
    if age_seconds >= settings.abandon_seconds:
        return Step.ABANDON
    return Refuse(failure=ProvisionTimeout("MetaApi may still be creating the account"))


def _resume_update(now: Situation) -> Decision:
    if now.remote is None or now.goal is not Goal.DEPLOYED:
        return Step.ABANDON  # the password still waits
    return _locked(now.standing) or Act(kind=IntentKind.UPDATE)  # the same password again


def _resume_deploy(now: Situation) -> Decision:
    if now.remote is None:
        return Step.ABANDON
    if now.remote.state in (UNDEPLOYED, UNDEPLOYING):
        if now.goal is not Goal.DEPLOYED:
            return Step.ABANDON
        return _locked(now.standing) or Act(kind=IntentKind.DEPLOY)
    return Step.SETTLE


def _resume_ending(now: Situation, intent: Intent, *, ended: tuple[str, ...]) -> Decision:
    if now.remote is None or now.remote.state in ended:
        return Step.SETTLE
    if now.goal is Goal.DEPLOYED:
        return Step.ABANDON  # it is wanted again
    return Act(kind=intent.kind)


# Towards a deployed account.


def _towards_deployed(now: Situation, settings: ProvisioningSettings) -> Decision:
    remote = now.remote
    if remote is None and now.standing.created_id is not None and now.named_id is None:
        return Step.FORGET
    if remote is None:
        return _create(now, settings)
    if now.named_id is None and now.standing.created_id != remote.account_id:
        return Adopt(account_id=remote.account_id)
    if remote.state in (DELETING, UNDEPLOYING):
        return Step.WAIT
    return (
        _auth_failed(now) or _update(now, settings) or _towards_deployed_from(remote, now, settings)
    )


def _create(now: Situation, settings: ProvisioningSettings) -> Decision:
    if now.named_id is not None:
        problem = f"MetaApi has no account {now.named_id}; correct the spec, or have one created"
        return Refuse(failure=NotFound(problem))
    credentials = now.standing.credentials
    if credentials is None or credentials.state is not CredentialState.WAITING:
        is_refused = credentials is not None and credentials.state is CredentialState.REJECTED
        return Refuse(failure=_no_password(is_refused=is_refused))
    return _refused(now, settings) or Act(kind=IntentKind.CREATE)


def _auth_failed(now: Situation) -> Refuse | None:
    """Stay refused, unless a new password waits or somebody else helped the account."""
    credentials, remote = now.standing.credentials, now.remote
    is_waiting = credentials is not None and credentials.state is CredentialState.WAITING
    is_helped = remote is not None and remote.connection_status == CONNECTED
    if now.standing.auth is not Auth.FAILED or is_waiting or is_helped:
        return None
    return Refuse(failure=AuthFailed("the broker refuses the credentials; submit others"))


def _update(now: Situation, settings: ProvisioningSettings) -> Decision | None:
    credentials = now.standing.credentials
    if credentials is None or credentials.state is not CredentialState.WAITING:
        return None
    return _refused(now, settings) or Act(kind=IntentKind.UPDATE)


def _towards_deployed_from(
    remote: RemoteAccount, now: Situation, settings: ProvisioningSettings
) -> Decision:
    credentials = now.standing.credentials
    is_stale = credentials is not None and credentials.state is CredentialState.UPDATED
    match remote.state:
        case "DEPLOYED" | "DEPLOYING" | "CREATED" if is_stale:
            # what would be refused afterwards is better left running with the old password
            return _refused(now, settings) or Act(kind=IntentKind.UNDEPLOY)
        case "DEPLOYED":
            return Step.DONE
        case "DEPLOYING" | "CREATED":
            return Step.WAIT
        case "UNDEPLOYED":
            return _refused(now, settings) or Act(kind=IntentKind.DEPLOY)
        case state if state in _FAILED:
            return _refused(now, settings) or _deploy_again(remote, now.standing, settings)
        case _:
            return Refuse(
                failure=NotDeployed(
                    f"MetaApi account {remote.account_id} is {remote.state}, from where brokerd "
                    "cannot deploy it; finish it in MetaApi, brokerd looks again by itself"
                )
            )


def _deploy_again(
    remote: RemoteAccount, standing: Standing, settings: ProvisioningSettings
) -> Decision:
    """Deploy what failed to deploy, but not more often than a deployment is paid for anyway."""
    last = standing.deployed_at
    retry_seconds = settings.failed_deploy_retry_seconds
    if last is None or (standing.now - last).total_seconds() >= retry_seconds:
        return Act(kind=IntentKind.DEPLOY)
    return Refuse(
        failure=NotDeployed(
            f"MetaApi account {remote.account_id} is {remote.state}; brokerd deploys it again "
            f"{retry_seconds / 3600:g} h after the last attempt"
        )
    )


# What keeps us from asking.


def _refused(now: Situation, settings: ProvisioningSettings) -> Refuse | None:
    """Return why a chargeable call would be refused, as far as we know without asking."""
    return (
        _known_bad(now.standing)
        or _suspected(now.standing, settings)
        or _locked(now.standing)
        or _remembered(now.standing, settings)
    )


def _known_bad(standing: Standing) -> Refuse | None:
    credentials = standing.credentials
    if credentials is None or not credentials.is_known_bad:
        return None
    return Refuse(failure=_no_password(is_refused=True))


def _no_password(*, is_refused: bool) -> AuthFailed:
    if is_refused:
        return KnownBadCredentials(
            "the broker refused these very credentials before; submit others"
        )
    return CredentialsMissing(
        "the account is to be created, and no password waits for it; submit credentials"
    )


def _suspected(standing: Standing, settings: ProvisioningSettings) -> Refuse | None:
    """Wait before the one confirmation of credentials that the broker took lately."""
    if standing.auth is not Auth.SUSPECTED or standing.auth_at is None:
        return None
    waited_seconds = (standing.now - standing.auth_at).total_seconds()
    return _later(settings.confirm_seconds - waited_seconds)


def _later(seconds: float) -> Refuse | None:
    if seconds <= 0:
        return None
    problem = "the broker refused credentials that it took lately; they are tried once more"
    return Refuse(failure=AuthSuspected(problem, retry_after_seconds=seconds))


def _locked(standing: Standing) -> Refuse | None:
    seconds = _until(standing.locked_until, standing.now)
    if seconds <= 0:
        return None
    problem = "MetaApi refused credentials of this account too often and checks none for now"
    failure = ValidationLocked(problem, retry_after_seconds=seconds, scope="account")
    return Refuse(failure=failure)


def _remembered(standing: Standing, settings: ProvisioningSettings) -> Refuse | None:
    refusal = standing.refusal
    if refusal is None or refusal.code not in REMEMBERED:
        return None
    if (standing.now - refusal.at).total_seconds() >= settings.refusal_memory_seconds:
        return None
    return Refuse(failure=REMEMBERED[refusal.code](refusal.problem))


def _until(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else (moment - now).total_seconds()


# Towards an account that is stopped or removed.


def _towards_gone(now: Situation) -> Decision:
    remote, is_kept = now.remote, now.goal is Goal.UNDEPLOYED
    if remote is None and now.standing.created_id is not None:
        return Step.FORGET
    if remote is None or (remote.state == DELETING and is_kept):
        return Step.DONE
    if remote.state in (UNDEPLOYING, DELETING):
        return Step.WAIT
    if remote.state in (UNDEPLOYED, DRAFT):
        return Step.DONE if is_kept else Act(kind=IntentKind.DELETE)
    if remote.state == "DELETE_FAILED" and not is_kept:
        return Act(kind=IntentKind.DELETE)
    return Act(kind=IntentKind.UNDEPLOY)
