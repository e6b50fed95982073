"""The demo from start to verdict: register, run, freeze, settle, judge."""

import asyncio
import signal
import sys
from collections.abc import Collection
from random import Random

import msgspec
from rich.console import Console

from brokerd.api.bodies import LinkBody
from brokerd.clock import SystemClock
from brokerd.demo.drill import StoreDrill
from brokerd.demo.fleet import Fleet, open_members
from brokerd.demo.interrupts import Interrupts
from brokerd.demo.ledger import open_ledger
from brokerd.demo.options import DemoOptions
from brokerd.demo.report import Report, StoreOutages, exit_code, problems, summary
from brokerd.demo.settle import Settlement, settle
from brokerd.demo.stage import Stage, open_stage
from brokerd.demo.storm import Storm
from brokerd.demo.truth import AccountTruth, read_truth
from brokerd.demo.verdict import Freeze, Outcome, judge
from brokerd.demo.view import View
from brokerd.demo.watch import Watcher
from brokerd.domain import Phase
from brokerd.logs import configure_logging

DEALS_PER_ACCOUNT_MINUTE = 12.0
"""A deal a second for every five accounts."""
EXTRA_CHAOS_SECONDS = 60.0
"""How long a run is prolonged for faults that have not struck yet."""
EXIT_ABORTED = 130
_TICK_SECONDS = 0.2


class Demo:
    """One demo on a stage that is up."""

    def __init__(self, options: DemoOptions, *, stage: Stage, fleet: Fleet, view: View) -> None:
        self._options = options
        self._stage = stage
        self._fleet = fleet
        self._clock = SystemClock()
        self._watcher = Watcher(stage, fleet=fleet, view=view, clock=self._clock)
        self._store_outages: StoreOutages | None = None

    async def run(self, interrupts: Interrupts) -> Report:
        """Play the whole demo; return what came of it."""
        interrupts.is_running = True
        await self._stage.control.trade(deals_per_minute=DEALS_PER_ACCOUNT_MINUTE)
        await self._fleet.register()
        self._watcher.began_at = self._clock.monotonic()
        await self._trade(interrupts)
        interrupts.is_running = False
        freeze = await self._freeze()
        async with open_ledger(self._stage.engines.postgres_url) as ledger:
            settlement = Settlement(quiet_at=self._clock.now(), truth=await self._truth())
            began_at = self._clock.monotonic()
            stragglers = await settle(
                settlement, fleet=self._fleet, ledger=ledger, clock=self._clock, look=self._look_on
            )
            outcome = Outcome(
                at=self._clock.now(),
                seconds=self._clock.monotonic() - began_at,
                settlement=settlement,
                stragglers=stragglers,
                faults={str(kind): times for kind, times in self._watcher.injected.items()},
                store_outages=self._store_outages,
            )
            await self._stage.daemon.stop()
            return await judge(self._options, freeze=freeze, outcome=outcome, ledger=ledger)

    async def _trade(self, interrupts: Interrupts) -> None:
        """Let time pass, with faults where asked, until it is over."""
        watcher = self._watcher
        storm = Storm(self._stage.control, random=Random(self._options.seed))  # noqa: S311  # a seed
        while not interrupts.stop.is_set() and not self._is_over():
            await watcher.look("chaos" if self._options.is_chaos else "trading")
            if self._options.is_chaos:
                await self._disturb(storm, interrupts)
            await interrupts.wait(_TICK_SECONDS)

    async def _disturb(self, storm: Storm, interrupts: Interrupts) -> None:
        """Let the storm go on; after its first round PostgreSQL goes away."""
        watcher = self._watcher
        if self._store_outages is None and storm.is_between_rounds:
            drill = StoreDrill(
                self._stage,
                fleet=self._fleet,
                watcher=watcher,
                clock=self._clock,
                interrupts=interrupts,
            )
            self._store_outages = await drill.run(
                links=self._options.slots, stop_seconds=self._options.store_away_seconds
            )
        await storm.advance(
            watcher.elapsed_seconds,
            targets=watcher.accounts_in(Phase.LIVE),
            missing=watcher.never_struck,
        )

    def _is_over(self) -> bool:
        seconds = self._options.seconds
        if seconds is None:
            return False
        elapsed = self._watcher.elapsed_seconds
        is_missing = bool(self._watcher.never_struck) or self._store_outages is None
        if self._options.is_chaos and is_missing:
            return elapsed >= seconds + EXTRA_CHAOS_SECONDS
        return elapsed >= seconds

    async def _freeze(self) -> Freeze:
        """Stop trading and faults, and note how everything stands."""
        control, watcher = self._stage.control, self._watcher
        seconds = watcher.elapsed_seconds
        await control.freeze()
        at = self._clock.now()
        await control.switch_off_all()
        await watcher.look_at(await self._fleet.links(), "frozen")
        return Freeze(
            at=at,
            seconds=seconds,
            live=watcher.count(Phase.LIVE),
            queued=watcher.count(Phase.QUEUED),
            queue_positions=watcher.queue_positions,
        )

    async def _truth(self) -> dict[str, AccountTruth]:
        return {
            link_id: await read_truth(self._stage.control, member)
            for link_id, member in self._fleet.members.items()
        }

    async def _look_on(self, links: Collection[LinkBody]) -> None:
        await self._watcher.look_at(links, "settling")


def run_demo(options: DemoOptions) -> int:
    """Run a demo and print its report; return the exit code. Raises `EngineFailed`."""
    configure_logging(level="warning", stream=sys.stderr)
    try:
        report = asyncio.run(_run(options))
    except asyncio.CancelledError:
        return EXIT_ABORTED
    text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
    print(text if options.is_json else summary(report))  # noqa: T201  # the result
    for problem in problems(report, is_chaos=options.is_chaos):
        print(problem, file=sys.stderr)  # noqa: T201  # why the exit code is not 0
    return exit_code(report, is_chaos=options.is_chaos)


async def _run(options: DemoOptions) -> Report:
    task = asyncio.current_task()
    assert task is not None
    interrupts = Interrupts(task.cancel)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, interrupts.told)
    view = View(Console(stderr=True))
    view.say("starting PostgreSQL, Valkey, the sandbox and the daemon")
    async with open_stage(options) as stage:
        members = await open_members(
            stage.control,
            count=options.accounts,
            random=Random(options.seed),  # noqa: S311  # a seed
        )
        fleet = Fleet(stage.api, members=members)
        with view:
            return await Demo(options, stage=stage, fleet=fleet, view=view).run(interrupts)
