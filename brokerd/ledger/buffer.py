"""Writes that wait for their commit: bounded, first come first served, one per link at a time."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from brokerd.domain import WriteOutcome
from brokerd.errors import StoreUnavailable
from brokerd.ledger.ports import NumberedWrite


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pending:
    """A write in the buffer, and the future its caller waits on."""

    numbered: NumberedWrite
    arrived_at: float
    done: asyncio.Future[WriteOutcome] = field(repr=False)

    @property
    def weight(self) -> int:
        """Return how many rows it asks to change."""
        return len(self.numbered.write.deals) + len(self.numbered.write.removals)


class Buffer:
    """What the callers put in and the one committer takes out.

    Bounded in rows, those being committed included. Whoever finds it full waits in line.
    """

    def __init__(self, *, max_rows: int, batch_rows: int) -> None:
        self._max_rows = max_rows
        self._batch_rows = batch_rows
        self._waiting: deque[Pending] = deque()
        self._taken: list[Pending] = []
        self._is_open = True
        self._turn = asyncio.Lock()  # fair: a large write is not overtaken for ever by small ones
        self._room = asyncio.Event()
        self._filled = asyncio.Event()
        self._enough = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.rows = 0

    async def put(self, pending: Pending) -> None:
        """Wait for room, then queue. Raises `StoreUnavailable` once the buffer is closed."""
        async with self._turn:
            # One that alone exceeds the bound goes in alone: refusing it would be for ever.
            while self._is_open and self.rows and self.rows + pending.weight > self._max_rows:
                self._room.clear()
                await self._room.wait()
            if not self._is_open:
                raise StoreUnavailable("the ledger takes nothing more")
            self.rows += pending.weight
            self._waiting.append(pending)
            self._empty.clear()
            self._signal()

    async def batch(self, *, age_seconds: float) -> Sequence[Pending]:
        """Wait for a full batch, or for what has arrived `age_seconds` after its first write."""
        await self._filled.wait()
        try:
            async with asyncio.timeout_at(self._waiting[0].arrived_at + age_seconds):
                await self._enough.wait()
        except TimeoutError:
            pass
        self._taken = take(self._waiting, max_rows=self._batch_rows)
        self._signal()
        return self._taken

    def forget_batch(self) -> None:
        """Make room: the last batch was answered."""
        self.rows -= sum(pending.weight for pending in self._taken)
        self._taken = []
        self._room.set()
        if not self._waiting:
            self._empty.set()

    def close(self) -> None:
        """Refuse everything that is not queued yet."""
        self._is_open = False
        self._room.set()

    async def wait_empty(self) -> None:
        """Wait until everything was answered."""
        await self._empty.wait()

    def abandon(self) -> Sequence[Pending]:
        """Close, and return whatever was not answered."""
        self.close()
        self._taken += self._waiting
        self._waiting.clear()
        left = tuple(self._taken)
        self.forget_batch()
        return left

    def _signal(self) -> None:
        """Tell the committer what waits; called whenever that changed."""
        _set(self._filled, is_set=bool(self._waiting))
        waiting_rows = self.rows - sum(each.weight for each in self._taken)
        _set(self._enough, is_set=waiting_rows >= self._batch_rows)


def take(waiting: deque[Pending], *, max_rows: int) -> list[Pending]:
    """Take a batch from the front, at most one write per account and at least one write.

    A second write of an account stays for the next batch, in its order: within one statement
    the two could not see each other.
    """
    taken: list[Pending] = []
    left: list[Pending] = []
    accounts: set[int] = set()
    rows = 0
    while waiting and rows < max_rows:
        pending = waiting.popleft()
        account_id = pending.numbered.write.fence.account_id
        if account_id in accounts or (taken and rows + pending.weight > max_rows):
            left.append(pending)
        else:
            taken.append(pending)
            rows += pending.weight
        accounts.add(account_id)
    waiting.extendleft(reversed(left))
    return taken


def _set(event: asyncio.Event, *, is_set: bool) -> None:
    if is_set:
        event.set()
    else:
        event.clear()
