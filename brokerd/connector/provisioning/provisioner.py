"""Brings one link's MetaApi account to where it should be: looks, asks `plan`, does the one step.

Theory. Nothing that costs or changes anything is called before its intent is committed under the
link's fence. A refusal closes the intent, and so does success; an answer that never came leaves
it open, and the next look decides from the account's state. So a process may die anywhere in
here: whoever runs the link next takes up the intent and buys nothing twice.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import assert_never

import structlog

from brokerd.config.settings import ProvisioningSettings, Secret
from brokerd.connector import identity
from brokerd.connector.ports import Provisioned, RemoteAccount, RestPort, Working
from brokerd.connector.provisioning.budgets import Limit
from brokerd.connector.provisioning.outcome import Judge, Refused
from brokerd.connector.provisioning.plan import (
    Act,
    Adopt,
    Decision,
    Goal,
    Refuse,
    Situation,
    Step,
    plan,
)
from brokerd.connector.provisioning.ports import (
    Auth,
    Call,
    Charge,
    Created,
    Intent,
    IntentKind,
    Intents,
    NewAccount,
    Outcome,
    ProvisioningPort,
    Standing,
)
from brokerd.connector.provisioning.prices import worst_usd
from brokerd.connector.provisioning.sealing import Vault
from brokerd.connector.provisioning.transitions import Transitions
from brokerd.domain import Claim, MetaApiRef
from brokerd.errors import (
    AuthSuspected,
    CredentialsMissing,
    Held,
    KnownBadCredentials,
    NotFound,
    ProvisionTimeout,
    Rejected,
    Throttled,
    ValidationLocked,
)
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_REASONS = {
    IntentKind.CREATE: "Creating",
    IntentKind.UPDATE: "UpdatingCredentials",
    IntentKind.DEPLOY: "Deploying",
    IntentKind.UNDEPLOY: "Undeploying",
    IntentKind.DELETE: "Removing",
}
_WITH_PASSWORD = frozenset({IntentKind.CREATE, IntentKind.UPDATE})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionPorts:
    """All that provisioning is made of beside a claim."""

    rest: RestPort
    provisioning: ProvisioningPort
    intents: Intents
    vault: Vault
    transitions: Transitions
    judge: Judge
    limits: Sequence[Limit]
    settings: ProvisioningSettings
    random: Random
    metrics: Metrics


class Provisioner:
    """`Provisioning` for all links of a node."""

    def __init__(self, ports: ProvisionPorts) -> None:
        self._ports = ports

    @property
    def timeout_seconds(self) -> float:
        """Return how long an account may be on its way."""
        return self._ports.settings.timeout_seconds

    async def deployed(self, claim: Claim, *, working: Working) -> Provisioned:
        """Return once the account is deployed: at once if it is, else after minutes."""
        return await _Journey(claim, working=working, ports=self._ports).deployed()

    async def restarted(self, claim: Claim, *, working: Working) -> Provisioned:
        """Undeploy and deploy."""
        journey = _Journey(claim, working=working, ports=self._ports)
        return await journey.deployed(is_anew=True)

    async def put_away(self, claim: Claim, goal: Goal, *, working: Working) -> None:
        """Return once the account is undeployed, or removed."""
        await _Journey(claim, working=working, ports=self._ports).reach(goal)


class _Journey:
    """One account on its way to one goal."""

    def __init__(self, claim: Claim, *, working: Working, ports: ProvisionPorts) -> None:
        self._claim = claim
        self._working = working
        self._ports = ports
        self._place = claim.spec.metaapi
        self._called: set[IntentKind] = set()

    async def deployed(self, *, is_anew: bool = False) -> Provisioned:
        """Reach a deployed account; `is_anew` undeploys it first, within the same limit."""
        account = await self.reach(Goal.DEPLOYED, is_anew=is_anew)
        assert account is not None
        if isinstance(self._place, MetaApiRef):
            return Provisioned(claim=self._claim, account=account)
        claim = replace(self._claim, created_id=account.account_id)
        return Provisioned(claim=claim, account=account)

    async def _leave(self) -> None:
        """Undeploy an account that is deployed, if it may be deployed again."""
        now = await self._look(Goal.DEPLOYED)
        if plan(now, settings=self._ports.settings) is Step.DONE:
            await self._working(_REASONS[IntentKind.UNDEPLOY])
            await self._act(IntentKind.UNDEPLOY, now)

    async def reach(self, goal: Goal, *, is_anew: bool = False) -> RemoteAccount | None:
        """Return the account once it is where it should be; None when it is gone."""
        seconds = self._ports.settings.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                if is_anew:
                    await self._leave()
                while True:
                    now = await self._look(goal)
                    decision = plan(now, settings=self._ports.settings)
                    if decision is Step.DONE:
                        return now.remote
                    await self._carry_out(decision, now)
        except TimeoutError:
            problem = f"the MetaApi account of {self._claim.link_id} is not {goal} in {seconds:g} s"
            raise ProvisionTimeout(problem) from None

    # Looking.

    async def _look(self, goal: Goal) -> Situation:
        account_id = self._claim.fence.account_id
        standing = await self._ports.intents.standing(account_id, generation=self._claim.generation)
        named_id = self._place.account_id if isinstance(self._place, MetaApiRef) else None
        known_id = named_id or standing.created_id
        remote = None if known_id is None else await self._read(known_id)
        is_creating = standing.intent is not None and standing.intent.kind is IntentKind.CREATE
        if remote is None and named_id is None and (goal is Goal.DEPLOYED or is_creating):
            remote = await self._find()
        return Situation(goal=goal, named_id=named_id, standing=standing, remote=remote)

    async def _read(self, account_id: str) -> RemoteAccount | None:
        try:
            remote = await self._ports.rest.account(self._ref(account_id))
        except NotFound:
            return None
        identity.check_registered(self._claim.spec.identity, remote)
        return remote

    async def _find(self) -> RemoteAccount | None:
        """Find an account of the registered identity; of several, one that is deployed."""
        wanted = self._claim.spec.identity
        listed = await self._ports.provisioning.accounts(self._place.token, login=wanted.login)
        found = [
            account
            for account in listed
            if (account.platform, account.login, account.server)
            == (wanted.platform, wanted.login, wanted.server)
        ]
        return min(found, key=lambda account: account.state != identity.DEPLOYED, default=None)

    def _ref(self, account_id: str) -> MetaApiRef:
        return MetaApiRef(token=self._place.token, account_id=account_id, region=self._place.region)

    # Doing.

    async def _carry_out(self, decision: Decision, now: Situation) -> None:
        match decision:
            case Refuse(failure=failure):
                if isinstance(failure, KnownBadCredentials):
                    self._ports.metrics.credential_cache_hits.inc()
                raise failure
            case Act(kind=kind):
                await self._working(_REASONS[kind])
                await self._act(kind, now)
            case Adopt(account_id=account_id):
                await self._adopt(account_id, now.standing.intent)
            case Step.FORGET:
                log.warning("account.vanished", link_id=self._claim.link_id)
                await self._ports.intents.adopt(self._claim.fence, None)
            case Step.WAIT:
                assert now.remote is not None
                await self._working(now.remote.state.capitalize())
                await self._ports.transitions.passed(self._ref(now.remote.account_id))
            case Step.SETTLE | Step.ABANDON | Step.DONE:
                intent, judge = now.standing.intent, self._ports.judge
                assert intent is not None
                ended = judge.done(intent) if decision is Step.SETTLE else judge.abandoned()
                await self._close(intent, ended)
            case _:
                assert_never(decision)

    async def _adopt(self, account_id: str, intent: Intent | None) -> None:
        """Take an account for the link's own: it was bought under the intent, or by others."""
        if intent is not None:
            await self._close(intent, self._ports.judge.done(intent, created_id=account_id))
            return
        log.info("account.adopted", link_id=self._claim.link_id, account_id=account_id)
        await self._ports.intents.adopt(self._claim.fence, account_id)

    async def _act(self, kind: IntentKind, now: Situation) -> None:
        intent, is_first = now.standing.intent, now.standing.intent is None
        if is_first and kind in self._called:
            state = "gone" if now.remote is None else now.remote.state
            problem = f"MetaApi agreed to {kind} the account, which is {state} all the same"
            raise ProvisionTimeout(problem)
        password = await self._password(now) if kind in _WITH_PASSWORD else None
        if intent is None:
            intent = await self._open(kind, now)
        else:
            log.warning("intent.resumed", link_id=self._claim.link_id, kind=kind)
        try:
            created_id = await self._perform(intent, now, password)
        except (Rejected, Throttled, Held) as failure:
            # what was not done this time may still have been done before
            if is_first or isinstance(failure, Rejected | ValidationLocked):
                await self._refuse(intent, failure, now.standing)
            raise
        self._called.add(kind)
        await self._close(intent, self._ports.judge.done(intent, created_id=created_id))

    async def _open(self, kind: IntentKind, now: Situation) -> Intent:
        # who undeploys in order to deploy must be able to pay for that
        is_restart = kind is IntentKind.UNDEPLOY and now.goal is Goal.DEPLOYED
        reserve_usd = worst_usd(IntentKind.DEPLOY if is_restart else kind, self._ports.judge.prices)
        credentials = now.standing.credentials
        call = Call(
            kind=kind,
            transaction_id=f"{self._ports.random.getrandbits(128):032x}",
            generation=self._claim.generation,
            credential_version=0 if credentials is None else credentials.version,
            reserve_usd=reserve_usd,
        )
        intent = await self._ports.intents.open(self._claim.fence, call, limits=self._ports.limits)
        log.info(
            "intent.opened",
            link_id=self._claim.link_id,
            kind=kind,
            reserve_usd=str(reserve_usd or 0),
        )
        return intent

    async def _perform(self, intent: Intent, now: Situation, password: Secret | None) -> str | None:
        """Make the call of an intent; return the id of an account that it created."""
        provisioning = self._ports.provisioning
        if intent.kind is IntentKind.CREATE:
            assert password is not None
            return await self._create(intent, self._new_account(password))
        assert now.remote is not None
        remote = self._ref(now.remote.account_id)
        match intent.kind:
            case IntentKind.UPDATE:
                assert password is not None
                await provisioning.update(remote, password=password)
            case IntentKind.DEPLOY:
                await provisioning.deploy(remote)
            case IntentKind.UNDEPLOY:
                await provisioning.undeploy(remote)
            case IntentKind.DELETE:
                await provisioning.delete(remote)
            case _:
                assert_never(intent.kind)
        return None

    async def _create(self, intent: Intent, account: NewAccount) -> str:
        """Ask until MetaApi has created the account: the same question, the same transaction."""
        is_pending = False
        while True:
            try:
                answer = await self._ports.provisioning.create(
                    self._place.token, account, transaction_id=intent.transaction_id
                )
            except (Throttled, Held) as failure:
                if not is_pending or isinstance(failure, ValidationLocked):
                    raise
                retry_after_seconds: float | None = failure.retry_after_seconds
            else:
                if isinstance(answer, Created):
                    return answer.account_id
                is_pending, retry_after_seconds = True, answer.retry_after_seconds
            await asyncio.sleep(retry_after_seconds or self._ports.settings.create_retry_seconds)

    def _new_account(self, password: Secret) -> NewAccount:
        wanted, settings = self._claim.spec.identity, self._ports.settings
        return NewAccount(
            name=f"brokerd {self._claim.link_id}",
            platform=wanted.platform,
            login=wanted.login,
            password=password,
            server=wanted.server,
            region=self._place.region,
            type=settings.account_type,
            reliability=settings.reliability,
        )

    async def _password(self, now: Situation) -> Secret:
        """Open the password that the call is for, before anything is spent on it."""
        intent, credentials = now.standing.intent, now.standing.credentials
        version = 0 if credentials is None else credentials.version
        sealed = await self._ports.intents.sealed(
            self._claim.fence.account_id,
            version=version if intent is None else intent.credential_version,
        )
        opened = None
        if sealed is not None:
            opened = self._ports.vault.open(sealed, link_id=self._claim.link_id)
        if opened is not None:
            return opened
        if intent is not None:
            await self._close(intent, self._ports.judge.abandoned())
        raise CredentialsMissing(
            "the password cannot be read any more, its key is gone; submit it again"
        )

    # Noting.

    async def _refuse(self, intent: Intent, failure: Refused, standing: Standing) -> None:
        outcome = self._ports.judge.refused(intent, failure, standing)
        await self._close(intent, outcome)
        if outcome.auth is Auth.SUSPECTED:
            seconds = self._ports.settings.confirm_seconds
            raise AuthSuspected(str(failure), retry_after_seconds=seconds) from failure

    async def _close(self, intent: Intent, outcome: Outcome) -> None:
        await self._ports.intents.close(self._claim.fence, intent, outcome)
        log.info(
            "intent.closed",
            link_id=self._claim.link_id,
            kind=intent.kind,
            code=outcome.code,
            charge=outcome.charge,
            usd=None if outcome.usd is None else str(outcome.usd),
        )
        attempts = self._ports.metrics.chargeable_attempts
        match outcome.charge:
            case Charge.ADD:
                attempts.labels(kind=Charge.ADD).inc()
                attempts.labels(kind=Charge.DEPLOY).inc()  # that comes with it
            case Charge.DEPLOY | Charge.AUTH | Charge.TIMEZONE:
                attempts.labels(kind=outcome.charge).inc()
            case Charge.NONE | Charge.RESERVED | None:
                pass
            case _:
                assert_never(outcome.charge)
