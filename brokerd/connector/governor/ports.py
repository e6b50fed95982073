"""What the governor is told of a call, what callers see of it, and what it needs from the world."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Service(StrEnum):
    """Which of MetaApi's services a call goes to."""

    PROVISIONING = "provisioning"
    CLIENT = "client"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that is about to be sent: what it is, and who is charged for it.

    `method` is its name in metrics. `region` and `account_id` are None where it concerns none.
    """

    service: Service
    method: str
    token: str
    region: str | None = None
    account_id: str | None = None


class Passage(Protocol):
    """One call that was let through; whoever sent it says what came back."""

    def note_date(self, date: str | None, *, sent_at: datetime, received_at: datetime) -> None:
        """Note the answer's Date header and our own clock around it."""

    def note_items(self, items: int) -> None:
        """Note how many items of history came: they cost credits too."""


class Gate(Protocol):
    """The one way out to MetaApi's REST services."""

    def passing(self, call: Call) -> AbstractAsyncContextManager[Passage]:
        """Wait for the call's turn; the call is sent inside, once.

        What the inside raises (of our error tree) is learnt from and raised on. Entering raises
        `Held` when the turn would come late; then nothing was spent.
        """

    def server_now(self, service: Service) -> datetime:
        """Return what a service's own clock shows now, as its Date headers told."""


class SocketGate(Protocol):
    """The one way out for the stream."""

    async def socket_turn(self, region: str) -> None:
        """Wait until one more socket may be opened, by the node's and by the fleet's pace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the registry wants of one token in one region: deployed accounts, one of them named."""

    token: str
    region: str
    accounts: int
    example_account_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The fleet: how many nodes live and share a budget, and what is wanted of MetaApi."""

    live_nodes: int
    demands: Sequence[Demand]


class CensusTaker(Protocol):
    """Counts the fleet. Raises `StoreUnavailable`."""

    async def take(self) -> Census:
        """Count nodes that are not closed, and accounts that are not stopped or deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PotWindow:
    """One shared window: its name, how long it is, and what it holds."""

    name: str
    period_seconds: float
    limit: float


class Pot(Protocol):
    """The part of every budget that all nodes draw from. It may be lost at any time."""

    async def draw(self, needs: Mapping[PotWindow, float]) -> float | None:
        """Draw from all windows or from none: 0.0 when drawn, else the seconds to wait.

        None when the pot is away.
        """

    async def give_back(self, amounts: Mapping[PotWindow, float]) -> None:
        """Put back what was drawn and not used; may be lost."""

    async def may_probe(self, name: str, *, every_seconds: float) -> float | None:
        """Take the fleet's one probe of an interval: 0.0 when taken, else the seconds to wait.

        None when the pot is away.
        """

    async def forget_probe(self, name: str) -> None:
        """Let others probe at once: the cause is gone."""
