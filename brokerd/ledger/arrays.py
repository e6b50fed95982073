"""A batch as the arrays that the ledger's statement unnests: one array per column."""

from collections.abc import Mapping, Sequence

from brokerd.ledger.content import content_hash
from brokerd.ledger.ports import NumberedWrite


def arrays_of(writes: Sequence[NumberedWrite]) -> Mapping[str, Sequence[object]]:
    """Return the parameters of `statements.COMMIT`."""
    rows = [(each.write.fence.account_id, deal) for each in writes for deal in each.write.deals]
    removals = [
        (each.write.fence.account_id, deal_id) for each in writes for deal_id in each.write.removals
    ]
    return {
        "account_ids": [each.write.fence.account_id for each in writes],
        "owners": [each.write.fence.incarnation for each in writes],
        "epochs": [each.write.fence.epoch for each in writes],
        "link_ids": [each.write.link_id for each in writes],
        "user_ids": [each.write.user_id for each in writes],
        "sources": [each.write.source.value for each in writes],
        "fetched_ats": [each.write.fetched_at for each in writes],
        "write_ids": [each.write_id for each in writes],
        "deal_accounts": [account_id for account_id, _ in rows],
        "deal_ids": [deal.deal_id for _, deal in rows],
        "types": [deal.type for _, deal in rows],
        "entries": [deal.entry for _, deal in rows],
        "symbols": [deal.symbol for _, deal in rows],
        "volumes": [deal.volume for _, deal in rows],
        "prices": [deal.price for _, deal in rows],
        "times": [deal.time for _, deal in rows],
        "broker_times": [deal.broker_time for _, deal in rows],
        "profits": [deal.profit for _, deal in rows],
        "commissions": [deal.commission for _, deal in rows],
        "swaps": [deal.swap for _, deal in rows],
        "order_ids": [deal.order_id for _, deal in rows],
        "position_ids": [deal.position_id for _, deal in rows],
        "books": [deal.book.value for _, deal in rows],
        "raws": [deal.raw for _, deal in rows],
        "hashes": [content_hash(deal) for _, deal in rows],
        "removal_accounts": [account_id for account_id, _ in removals],
        "removal_ids": [deal_id for _, deal_id in removals],
    }
