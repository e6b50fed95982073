"""How the memory adapters tell consumers what happened."""

from dataclasses import replace

from brokerd.domain import AccountId, DealId, LinkId, UserId
from brokerd.ledger.feed import EventType
from brokerd.store.memory import EventRow, HeadRow, MemoryState


class Outbox:
    """One account's way to tell, under the names its link and user bear now."""

    def __init__(
        self, state: MemoryState, account_id: AccountId, *, link_id: LinkId, user_id: UserId
    ) -> None:
        self._state = state
        self._account_id = account_id
        self._link_id = link_id
        self._user_id = user_id

    def tell(
        self,
        event_type: EventType,
        payload: str,
        *,
        deal_id: DealId | None = None,
        revision: int | None = None,
    ) -> None:
        """Write the account's next event."""
        head = self._state.heads.get(self._account_id, HeadRow())
        head = replace(head, account_seq=head.account_seq + 1)
        self._state.heads[self._account_id] = head
        self._state.events.append(
            EventRow(
                account_id=self._account_id,
                account_seq=head.account_seq,
                link_id=self._link_id,
                user_id=self._user_id,
                type=event_type,
                deal_id=deal_id,
                revision=revision,
                payload=payload,
                created_at=self._state.clock.now(),
            )
        )
