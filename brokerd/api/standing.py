"""Where each waiting link stands, read off a histogram of the queue that says its own age.

Counting the rows before one link costs more the longer the queue is, so the queue is read once for
all who ask within a moment. A short queue is kept whole and the positions are exact; of a long
one every so many-th row is kept, and a position is that of the next row kept.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from brokerd.domain import AccountId

Turn = tuple[datetime, AccountId]
"""The sort key of the queue: deadline, then account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Turns in order with the rank of each; `read_at_seconds` is on the monotonic clock."""

    turns: Sequence[Turn]
    ranks: Sequence[int]
    read_at_seconds: float

    @property
    def is_whole(self) -> bool:
        """Say whether every turn was kept."""
        return not self.ranks or self.ranks[-1] == len(self.ranks)

    def position(self, turn: Turn) -> int:
        """Return the position of a turn, which need not have been seen."""
        index = bisect_left(self.turns, turn)
        if index < len(self.turns):
            return self.ranks[index]
        return self.ranks[-1] + 1 if self.ranks else 1
