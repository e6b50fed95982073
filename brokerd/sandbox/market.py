"""The market: it gives accounts their past, and trades them at a chosen rate until it is frozen.

One scheduler serves all accounts: random gaps of many independent accounts are, together, random
gaps at the summed rate, so one timer and a random choice of account do what a task per account
would. An act that books several deals is followed by as many gaps, which keeps the rate in deals.
"""

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from random import Random

from brokerd.sandbox import habits
from brokerd.sandbox.dealing import At
from brokerd.sandbox.facts import whole_ms
from brokerd.sandbox.habits import Past
from brokerd.sandbox.trading import TradingAccount
from brokerd.sandbox.truth import Broker

_MAX_LAG_SECONDS = 5.0
"""A scheduler further behind than this skips what it missed instead of catching up."""
_IDLE_SECONDS = 1.0
"""How soon a market without accounts looks for some."""


class Market:
    """Everything that happens to accounts by itself."""

    def __init__(
        self, broker: Broker, *, random: Random, deals_per_account_minute: float = 1.0
    ) -> None:
        self._broker = broker
        self._random = random
        self._rate = deals_per_account_minute
        self._is_frozen = False
        self._changed = asyncio.Event()
        self._order: list[TradingAccount] = []

    @property
    def deals_per_account_minute(self) -> float:
        """Return the chosen rate."""
        return self._rate

    @property
    def is_frozen(self) -> bool:
        """Say whether trading rests."""
        return self._is_frozen

    def set_rate(self, deals_per_account_minute: float) -> None:
        """Trade at another rate from now on; zero rests."""
        self._rate = deals_per_account_minute
        self._changed.set()

    def freeze(self) -> None:
        """Stop trading at once; what is booked stays."""
        self._is_frozen = True
        self._changed.set()

    def resume(self) -> None:
        """Trade again."""
        self._is_frozen = False
        self._changed.set()

    def seed(self, account: TradingAccount, past: Past) -> None:
        """Write the past of an account that has none."""
        now = self._broker.now()
        times = self._past_times(past, now=now)
        left = past.deals
        while left > 0:
            at = At(time=times[-left], booked_at=now)
            booking = habits.past_act(account, at=at, random=self._random, past=past, left=left)
            account.book_quietly(booking)
            left -= len(booking.deals)

    def trade(self, account: TradingAccount, *, deals: int = 1) -> int:
        """Let at least so many deals happen to an account now; return how many did."""
        made = 0
        while made < deals:
            now = self._broker.now()
            at = At(time=now, booked_at=now)
            booking = habits.next_act(account, at=at, random=self._random)
            account.book(booking)
            made += len(booking.deals)
        return made

    async def run(self) -> None:
        """Trade until cancelled."""
        clock = self._broker.clock
        due = clock.monotonic()
        gaps = 1
        while True:
            self._changed.clear()
            per_second = self._deals_per_second()
            if per_second <= 0:
                await self._wait(_IDLE_SECONDS)
                due, gaps = clock.monotonic(), 1
                continue
            due += sum(self._random.expovariate(per_second) for _ in range(gaps))
            due = max(due, clock.monotonic() - _MAX_LAG_SECONDS)
            if await self._wait(due - clock.monotonic()):
                due, gaps = clock.monotonic(), 1  # gaps of another rate: draw a new one
            else:
                gaps = self.trade(self._any_account())

    def _deals_per_second(self) -> float:
        return 0.0 if self._is_frozen else self._rate * len(self._broker.logins) / 60

    def _any_account(self) -> TradingAccount:
        if len(self._order) != len(self._broker.logins):
            self._order = list(self._broker.logins.values())
        return self._random.choice(self._order)

    async def _wait(self, seconds: float) -> bool:
        """Sleep; say whether rate or rest changed meanwhile, if only in the last moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._changed.wait()
        return self._changed.is_set()

    def _past_times(self, past: Past, *, now: datetime) -> list[datetime]:
        span = timedelta(days=past.days)
        moments = sorted(now - span * self._random.uniform(0.001, 1.0) for _ in range(past.deals))
        return [whole_ms(moment) for moment in moments]
