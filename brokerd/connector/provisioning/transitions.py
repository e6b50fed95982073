"""Waits until accounts are in no transition any more: one list for all who wait, by token.

Theory. A list of the accounts in transition is short however many there are altogether, and one
look tells everybody who waits. Whoever finds the last look older than his own wait looks for all;
so a token is asked once in `poll_seconds` at most, and not at all while nobody waits.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

import structlog

from brokerd.clock import Clock
from brokerd.connector.provisioning.plan import IN_TRANSITION
from brokerd.connector.provisioning.ports import ProvisioningPort
from brokerd.domain import MetaApiRef
from brokerd.errors import Transient

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Look:
    """The last look at a token's accounts; `in_transition` is None when it showed nothing."""

    began_at: float = float("-inf")
    in_transition: frozenset[str] | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Transitions:
    """One for all links of a node."""

    def __init__(
        self, provisioning: ProvisioningPort, *, poll_seconds: float, clock: Clock
    ) -> None:
        self._provisioning = provisioning
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._looks: defaultdict[str, _Look] = defaultdict(_Look)

    async def passed(self, remote: MetaApiRef) -> None:
        """Return once the account is in no transition; raises `Rejected` when nobody may look."""
        while True:
            since = self._clock.monotonic()
            await asyncio.sleep(self._poll_seconds)
            in_transition = await self._look(remote.token, since)
            if in_transition is not None and remote.account_id not in in_transition:
                return

    async def _look(self, token: str, since: float) -> frozenset[str] | None:
        """Return what a look showed that began after `since`."""
        look = self._looks[token]
        async with look.turn:
            if look.began_at <= since:
                look.began_at = self._clock.monotonic()
                look.in_transition = await self._list(token)
            return look.in_transition

    async def _list(self, token: str) -> frozenset[str] | None:
        try:
            found = await self._provisioning.accounts(token, states=IN_TRANSITION)
        except Transient as failure:
            log.debug("provisioning.look_failed", code=failure.code, problem=str(failure))
            return None  # they wait on; each has a deadline of its own
        return frozenset(account.account_id for account in found)
