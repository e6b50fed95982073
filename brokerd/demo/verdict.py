"""Reads the ledger one last time, with no daemon left that could change it, and judges it."""

from dataclasses import dataclass
from datetime import datetime

from brokerd.demo.ledger import LedgerReader, sums_of
from brokerd.demo.options import DemoOptions
from brokerd.demo.report import Figures, Report, StoreOutages, Straggler, make_report
from brokerd.demo.settle import Settlement
from brokerd.demo.spans import comebacks, live_spans, peak
from brokerd.demo.tally import LedgerRow, first_seen, tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """What was so when trading stopped."""

    at: datetime
    seconds: float
    live: int
    queued: int
    queue_positions: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the settling ended."""

    at: datetime
    seconds: float
    settlement: Settlement
    stragglers: list[Straggler]
    faults: dict[str, int]
    store_outages: StoreOutages | None


async def judge(
    options: DemoOptions, *, freeze: Freeze, outcome: Outcome, ledger: LedgerReader
) -> Report:
    """Compare the whole ledger with the whole truth."""
    truths = outcome.settlement.truth
    truth = {key: row for each in truths.values() for key, row in each.rows.items()}
    rows = await ledger.deals(truths.keys())
    transitions = await ledger.transitions()
    before = live_spans(transitions, until=freeze.at)
    by_link: dict[str, list[LedgerRow]] = {link: [] for link in truths}
    for key, row in rows.items():
        by_link[key[0]].append(row)
    figures = Figures(
        accounts=options.accounts,
        max_links=options.slots,
        seed=options.seed,
        seconds=freeze.seconds,
        live=freeze.live,
        queued=freeze.queued,
        queue_positions=freeze.queue_positions,
        max_live_seen=peak(live_spans(transitions, until=outcome.at)),
        reconnects=comebacks(before),
        faults=outcome.faults,
        store_outages=outcome.store_outages,
        proven=len(outcome.settlement.proven),
        settle_seconds=outcome.seconds,
        stragglers=outcome.stragglers,
    )
    return make_report(
        figures,
        found=tally(truth, rows, await ledger.events()),
        seen=first_seen(truth, rows, before, until=freeze.at),
        balances_different=sum(sums_of(by_link[link]) != truths[link].sums for link in truths),
    )
