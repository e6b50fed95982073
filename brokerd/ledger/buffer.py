"""Writes that wait for their commit: bounded, first come first served, one per link at a time."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from brokerd.domain import WriteOutcome
from brokerd.errors import StoreUnavailable
from brokerd.ledger.ports import NumberedWrite


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much something is, or may be at most: rows, and the bytes they take."""

    rows: int = 0
    size_bytes: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(rows=self.rows + other.rows, size_bytes=self.size_bytes + other.size_bytes)

    def __sub__(self, other: "Load") -> "Load":
        return Load(rows=self.rows - other.rows, size_bytes=self.size_bytes - other.size_bytes)

    def fits(self, most: "Load") -> bool:
        """Say whether it is within the bound."""
        return self.rows <= most.rows and self.size_bytes <= most.size_bytes

    def fills(self, most: "Load") -> bool:
        """Say whether it reaches the bound."""
        return self.rows >= most.rows or self.size_bytes >= most.size_bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pending:
    """A write in the buffer with what it asks to change, and the future its caller waits on."""

    numbered: NumberedWrite
    load: Load
    arrived_at: float
    done: asyncio.Future[WriteOutcome] = field(repr=False)


class Buffer:
    """What the callers put in and the one committer takes out.

    Bounded, what is being committed included. Whoever finds it full waits in line.
    """

    def __init__(self, *, most: Load, batch: Load) -> None:
        self._most = most
        self._batch = batch
        self._waiting: deque[Pending] = deque()
        self._taken: list[Pending] = []
        self._is_open = True
        self._turn = asyncio.Lock()  # fair: a large write is not overtaken for ever by small ones
        self._room = asyncio.Event()
        self._filled = asyncio.Event()
        self._enough = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self.load = Load()
        self._waiting_load = Load()

    async def put(self, pending: Pending) -> None:
        """Wait for room, then queue. Raises `StoreUnavailable` once the buffer is closed."""
        async with self._turn:
            # One that alone exceeds the bound goes in alone: refusing it would be for ever.
            while self._is_open and self.load.rows and not self._has_room(pending.load):
                self._room.clear()
                await self._room.wait()
            if not self._is_open:
                raise StoreUnavailable("the ledger takes nothing more")
            self.load += pending.load
            self._waiting_load += pending.load
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
        self._taken = take(self._waiting, most=self._batch)
        self._waiting_load -= load_of(self._taken)
        self._signal()
        return self._taken

    def forget_batch(self) -> None:
        """Make room: the last batch was answered."""
        self.load -= load_of(self._taken)
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
        _set(self._enough, is_set=self._waiting_load.fills(self._batch))

    def _has_room(self, load: Load) -> bool:
        return (self.load + load).fits(self._most)


def load_of(pendings: Iterable[Pending]) -> Load:
    """Add up what writes ask to change."""
    return sum((pending.load for pending in pendings), start=Load())


def take(waiting: deque[Pending], *, most: Load) -> list[Pending]:
    """Take a batch from the front, at most one write per account and at least one write.

    A second write of an account stays for the next batch, in its order: within one statement
    the two could not see each other.
    """
    taken: list[Pending] = []
    left: list[Pending] = []
    accounts: set[int] = set()
    load = Load()
    while waiting and not load.fills(most):
        pending = waiting.popleft()
        account_id = pending.numbered.write.fence.account_id
        if account_id in accounts or (taken and not (load + pending.load).fits(most)):
            left.append(pending)
        else:
            taken.append(pending)
            load += pending.load
        accounts.add(account_id)
    waiting.extendleft(reversed(left))
    return taken


def _set(event: asyncio.Event, *, is_set: bool) -> None:
    if is_set:
        event.set()
    else:
        event.clear()
