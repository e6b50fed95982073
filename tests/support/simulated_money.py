"""MetaApi's provisioning in process, as the daemon's port has it, and all that goes with it."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from brokerd.clock import Clock
from brokerd.config.settings import (
    BudgetSettings,
    MoneySettings,
    ProvisioningSettings,
    Secret,
    SecretsSettings,
)
from brokerd.connector.metaapi_rest.failures import Answer, failure
from brokerd.connector.ports import RemoteAccount, RestPort
from brokerd.connector.provisioning.budgets import limits_of
from brokerd.connector.provisioning.outcome import Judge
from brokerd.connector.provisioning.ports import Created, Intents, NewAccount, Pending
from brokerd.connector.provisioning.prices import prices_of
from brokerd.connector.provisioning.provisioner import Provisioner, ProvisionPorts
from brokerd.connector.provisioning.sealing import Vault
from brokerd.connector.provisioning.transitions import Transitions
from brokerd.domain import MetaApiRef, Platform
from brokerd.sandbox import orders, refusals
from brokerd.sandbox.provisioner import Accepted
from brokerd.sandbox.simulated import SimulatedMetaApi
from brokerd.sandbox.simulated_provisioning import SimulatedProvisioning
from brokerd.telemetry import Metrics

SECRETS = SecretsSettings(keys={"k1": Secret("s" * 64)}, current="k1")


@dataclass
class SimulatedPort:
    """`ProvisioningPort` over the simulated service; its refusals are read as those over REST.

    `calls` are the names of the calls that change something, in order. `before` and `after` run
    around each of them: what they raise is a call that never arrived, or an answer that got lost.
    """

    service: SimulatedMetaApi
    clock: Clock
    calls: list[str] = field(default_factory=list)
    lists: int = 0
    before: Callable[[str], None] = lambda _: None
    after: Callable[[str], None] = lambda _: None

    @property
    def verbs(self) -> SimulatedProvisioning:
        """Return the simulated service's verbs."""
        return SimulatedProvisioning(self.service)

    async def accounts(
        self, token: str, *, login: str | None = None, states: Sequence[str] = ()
    ) -> Sequence[RemoteAccount]:
        """List the accounts that match."""
        self.lists += 1
        found = await self.verbs.accounts(token)
        return [
            account
            for account in found
            if (login is None or login in account.login) and (not states or account.state in states)
        ]

    async def create(
        self, token: str, account: NewAccount, *, transaction_id: str
    ) -> Created | Pending:
        """Create an account."""
        wanted = orders.NewAccount(
            name=account.name,
            server=account.server,
            login=account.login,
            password=account.password.reveal(),
            platform=Platform(account.platform),
            region=account.region,
            magic=0,
        )
        answer = await self._order(
            "create", lambda: self.verbs.create(token, wanted, transaction_id=transaction_id)
        )
        if isinstance(answer, Accepted):
            return Pending(retry_after_seconds=answer.retry_after_seconds)
        return Created(account_id=answer.account_id)

    async def update(self, remote: MetaApiRef, *, password: Secret) -> None:
        """Change the password."""
        wanted = orders.AccountUpdate(password=password.reveal())
        await self._order(
            "update", lambda: self.verbs.update(remote.token, remote.account_id, wanted)
        )

    async def deploy(self, remote: MetaApiRef) -> None:
        """Deploy."""
        await self._order("deploy", lambda: self.verbs.deploy(remote.token, remote.account_id))

    async def undeploy(self, remote: MetaApiRef) -> None:
        """Undeploy."""
        await self._order("undeploy", lambda: self.verbs.undeploy(remote.token, remote.account_id))

    async def delete(self, remote: MetaApiRef) -> None:
        """Remove."""
        await self._order("delete", lambda: self.verbs.delete(remote.token, remote.account_id))

    async def _order(self, name: str, order: Callable[[], Awaitable[object]]) -> object:
        self.before(name)
        self.calls.append(name)
        try:
            answer = await order()
        except refusals.Refused as refused:
            raise self._read(name, refused) from None
        self.after(name)
        return answer

    def _read(self, name: str, refused: refusals.Refused) -> Exception:
        body = refusals.body_of(refused, request_id="f" * 32, offset=self._no_offset)
        answer = Answer(
            status=refused.status,
            headers={},
            body=json.dumps(body).encode(),
            answered_at=self.clock.now(),
        )
        return failure(answer, call=name)

    @property
    def _no_offset(self):
        return self.clock.now() - self.clock.now()


def build_provisioner(  # a builder of test values has many keywords
    *,
    rest: RestPort,
    port: SimulatedPort,
    intents: Intents,
    clock: Clock,
    metrics: Metrics,
    settings: ProvisioningSettings | None = None,
    secrets: SecretsSettings = SECRETS,
    seed: int = 1,
    **budgets: float,
) -> Provisioner:
    """Build what brings accounts up, with a deterministic vault."""
    settings = settings or ProvisioningSettings()
    return Provisioner(
        ProvisionPorts(
            rest=rest,
            provisioning=port,
            intents=intents,
            vault=Vault(secrets, random_bytes=Random(seed).randbytes),
            transitions=Transitions(port, poll_seconds=settings.poll_seconds, clock=clock),
            judge=Judge(prices=prices_of(MoneySettings()), settings=settings),
            limits=limits_of(BudgetSettings(**budgets)),
            settings=settings,
            random=Random(seed + 1),
            metrics=metrics,
        )
    )
