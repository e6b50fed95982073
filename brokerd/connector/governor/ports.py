"""What the governor is told of a call, what callers see of it, and what it needs from the world."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from brokerd.connector.governor.buckets import Limit
from brokerd.domain import MetaApiRef


class Service(StrEnum):
    """Which of MetaApi's services a call goes to."""

    PROVISIONING = "provisioning"
    CLIENT = "client"
    STREAM = "stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that is about to be sent: what it is, and who is charged for it.

    `method` is its name in metrics. `region` and `account_id` are None where it concerns none.
    `is_spending` when MetaApi may charge money for it. `caller` is who it is for, where that is no
    account.
    """

    service: Service
    method: str
    token: str
    region: str | None = None
    account_id: str | None = None
    is_spending: bool = False
    caller: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """One socket of the stream, whatever becomes of its connections."""

    token: str
    region: str
    name: str


class SocketGate(Protocol):
    """The one way out for the stream."""

    async def socket_turn(self, socket: Socket) -> None:
        """Wait until the socket may be opened, by the pace of node and fleet.

        Asked again before anything lived on its region's sockets, the last attempt failed.
        """

    def note_life(self, *, token: str, region: str) -> None:
        """Note that a terminal spoke on a socket of the region."""

    def note_subscriptions(self, token: str, allowed: int) -> None:
        """Note how many accounts a token may stream; MetaApi says so when it refuses one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the registry wants of one token in one region.

    Of `wanted` accounts, `accounts` exist at MetaApi; one of these is named.
    """

    token: str
    region: str
    wanted: int
    accounts: int
    example_account_id: str | None


class Census(Protocol):
    """Counts the fleet. Both raise `StoreUnavailable`."""

    async def live_nodes(self) -> int:
        """Count the nodes that are not closed and run links."""

    async def demands(self) -> Sequence[Demand]:
        """Count the accounts that are neither stopped nor deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The pot's answer: drawn (`wait_seconds` 0) or to be asked again after the wait.

    `slices` says where it was noted, by the limit's period.
    """

    name: str
    wait_seconds: float
    slices: Mapping[float, int]


class Pot(Protocol):
    """The part of every budget that all nodes draw from. It may be lost at any time."""

    async def draw(self, name: str, *, limits: Sequence[Limit], cost: int) -> Drawn | None:
        """Draw the cost under all limits or under none; None when the pot is away."""

    async def give_back(self, drawn: Drawn, *, units: int) -> None:
        """Put back what was drawn and not used; may be lost."""

    async def take_probe(self, name: str, *, every_seconds: float) -> float | None:
        """Take the fleet's one probe of an interval: 0.0 when taken, else the seconds to wait.

        None when the pot is away.
        """

    async def forget_probe(self, name: str) -> None:
        """Let others probe at once: the cause is gone. May be lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What MetaApi lets a user have in a region; None where it does not say."""

    region: str
    accounts: int | None
    deployed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A limit of credits as MetaApi states it, and what is left of it."""

    scope: str
    period_seconds: float
    total: float
    available: float


class QuotaReader(Protocol):
    """What MetaApi says of its limits. Both raise `Transient` and `Rejected`.

    Where an answer has another shape than we know, it says nothing.
    """

    async def quotas(self, token: str) -> Sequence[Quota]:
        """Read what a token's user may have, by region."""

    async def credits(self, remote: MetaApiRef) -> Sequence[Usage]:
        """Read the credits in the way of calls for an account."""


class Turns(Protocol):
    """The node's own pace."""

    async def turn(self) -> None:
        """Wait for the next turn; cancelling leaves the line."""


Sleep = Callable[[float], Awaitable[None]]
