"""The broker's truth about the demo's accounts, in the form in which it is compared."""

from dataclasses import dataclass

from brokerd.demo.control import SandboxControl
from brokerd.demo.fleet import Member
from brokerd.demo.ledger import Sums
from brokerd.demo.tally import DealKey, Facts, TruthRow
from brokerd.sandbox.control_views import DealView


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountTruth:
    """What one account's ledger must equal."""

    rows: dict[DealKey, TruthRow]
    sums: Sums


async def read_truth(control: SandboxControl, member: Member) -> AccountTruth:
    """Read the truth of one account."""
    view = await control.truth(member.account.account_id)
    return AccountTruth(
        rows={(member.link_id, deal.deal_id): _row(deal) for deal in view.deals},
        sums=Sums(balance=view.account.balance, credit=view.account.credit),
    )


def _row(deal: DealView) -> TruthRow:
    facts = Facts(
        type=deal.type,
        entry=deal.entry,
        symbol=deal.symbol,
        volume=deal.volume,
        price=deal.price,
        time=deal.time,
        profit=deal.profit,
        commission=deal.commission,
        swap=deal.swap,
        order_id=deal.order_id,
        position_id=deal.position_id,
    )
    return TruthRow(facts=facts, booked_at=deal.booked_at)
