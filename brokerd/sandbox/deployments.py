"""Accounts on their way from one state to the next, in scaled time."""

import asyncio
from collections.abc import Callable

from brokerd.sandbox.facts import ProvisioningState
from brokerd.sandbox.faults import Faults, StagedFault
from brokerd.sandbox.rules import ProvisioningRules
from brokerd.sandbox.truth import Broker, TruthAccount

_S = ProvisioningState


class Deployments:
    """Carries out orders; a later order takes the place of an earlier one that is under way."""

    def __init__(self, broker: Broker, *, faults: Faults, rules: ProvisioningRules) -> None:
        self._rules = rules
        self._broker = broker
        self._faults = faults
        self._under_way: dict[str, asyncio.TimerHandle] = {}

    def deploy(self, account: TruthAccount) -> None:
        """Begin to deploy; the account is deployed, and its terminal tries to log in, later."""
        self._start(account, failed=_S.DEPLOY_FAILED)

    def undeploy(self, account: TruthAccount) -> None:
        """Begin to undeploy; the terminal goes down at once."""
        account.set_state(_S.UNDEPLOYING)
        self._later(account, self._rules.undeploy_seconds, lambda: account.set_state(_S.UNDEPLOYED))

    def redeploy(self, account: TruthAccount) -> None:
        """Take the terminal down, then start it with what MetaApi was told meanwhile."""
        account.set_state(_S.UNDEPLOYING)
        self._later(
            account,
            self._rules.undeploy_seconds,
            lambda: self._start(account, failed=_S.REDEPLOY_FAILED),
        )

    def delete(self, account: TruthAccount) -> None:
        """Take the terminal down at once and forget the account a while later."""
        account.set_state(_S.DELETING)
        self._later(account, self._rules.delete_seconds, lambda: self._broker.forget(account))

    def _start(self, account: TruthAccount, *, failed: ProvisioningState) -> None:
        account.set_state(_S.DEPLOYING)
        struck = self._faults.strike(StagedFault.FAIL_DEPLOY, account_id=account.metaapi_id)
        end = _S.DEPLOYED if struck is None else failed
        self._later(account, self._rules.deploy_seconds, lambda: account.set_state(end))

    def _later(self, account: TruthAccount, seconds: float, act: Callable[[], None]) -> None:
        earlier = self._under_way.pop(account.metaapi_id, None)
        if earlier is not None:
            earlier.cancel()
        delay = self._rules.scaled(seconds)
        handle = asyncio.get_running_loop().call_later(delay, act)
        self._under_way[account.metaapi_id] = handle
