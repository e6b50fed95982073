"""What becomes of deals that a pull did not bring though the ledger holds them."""

from collections.abc import Collection, Mapping

from brokerd.connector.identity import remote_of
from brokerd.connector.ports import LinkPorts
from brokerd.connector.pull import Pulled, Puller
from brokerd.connector.removal import (
    TICKETS_ASKED,
    Suspicion,
    fold,
    is_proven_without,
    ripe,
)
from brokerd.domain import Claim, Deal, DealId
from brokerd.errors import Incomplete, NotFound, Synchronizing


class Settler:
    """Owns the suspects of one kind of pull, and removes those that are proved gone."""

    def __init__(self, claim: Claim, *, puller: Puller, ports: LinkPorts) -> None:
        self._claim = claim
        self._puller = puller
        self._ports = ports
        self._suspects: Mapping[DealId, Suspicion] = {}

    @property
    def suspects(self) -> Collection[DealId]:
        """Return the deals that may be gone and are not decided yet."""
        return self._suspects.keys()

    def keep_only(self, looked_for: Collection[DealId]) -> None:
        """Forget all other suspects: one that is never looked for can never be decided."""
        self._suspects = {d: s for d, s in self._suspects.items() if d in looked_for}

    async def settle(self, pulled: Pulled) -> None:
        """Judge what the pull lacked; raises `Incomplete` when it is the answer that is short.

        Deals absent often enough are removed once the balance proves the ledger without them.
        """
        fresh = [deal for deal in pulled.missing if deal not in self._suspects]
        found = await self._ask_tickets(fresh[:TICKETS_ASKED], pulled)
        if len(fresh) > TICKETS_ASKED and not await self._is_shorter_proven(pulled, fresh):
            raise Incomplete(
                f"{len(fresh)} deals of {self._claim.link_id} are missing from the answer and "
                "the balance does not vouch for it"
            )
        missing = pulled.missing.keys() - found
        self._suspects = fold(
            self._suspects,
            looked_for=pulled.held.keys(),
            missing=missing,
            now=self._ports.clock.now(),
            recheck_seconds=self._ports.settings.removal_recheck_seconds,
        )
        await self._remove(sorted(ripe(self._suspects) & missing), pulled)

    async def _remove(self, gone: list[DealId], pulled: Pulled) -> None:
        """Remove what no ticket finds once more and the balance proves gone."""
        # Sums that cancel out, or deals of no amount, the balance cannot vouch for alone.
        if not gone or await self._ask_tickets(gone[:TICKETS_ASKED], pulled):
            return
        proven_at = self._ports.clock.now()  # later than the pages of this pull, which write too
        if await self._is_shorter_proven(pulled, gone):
            await self._puller.commit((), fetched_at=proven_at, removals=tuple(gone))
            self._suspects = {d: s for d, s in self._suspects.items() if d not in gone}

    async def _ask_tickets(self, missing: list[DealId], pulled: Pulled) -> frozenset[DealId]:
        """Ask for missing deals by ticket: write a re-dated one, fail over one still in place.

        Return those that were found.
        """
        found: set[DealId] = set()
        for deal_id in missing:
            fetched_at = self._ports.clock.now()
            deals = await self._by_ticket(deal_id)
            if any(pulled.start <= deal.time < pulled.end for deal in deals):
                raise Incomplete(f"deal {deal_id} exists, yet the history answer lacked it")
            await self._puller.commit(deals, fetched_at=fetched_at)
            found.update(deal.deal_id for deal in deals)
        return frozenset(found)

    async def _by_ticket(self, deal_id: DealId) -> tuple[Deal, ...]:
        try:
            answer = await self._ports.rest.deals_by_ticket(remote_of(self._claim), deal_id=deal_id)
        except NotFound:
            return ()  # of the deal or of the account: the latter every other call will tell
        if answer.is_synchronizing:
            raise Synchronizing(f"MetaApi still synchronizes {self._claim.link_id}")
        return tuple(deal for deal in answer.deals if deal.deal_id == deal_id)

    async def _is_shorter_proven(self, pulled: Pulled, gone: list[DealId]) -> bool:
        information = await self._ports.rest.account_information(remote_of(self._claim))
        totals = await self._ports.ledger.totals(self._claim.fence.account_id)
        return is_proven_without(information, totals, [pulled.missing[deal] for deal in gone])
