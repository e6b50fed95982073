"""What the pool needs beside the queue: this node's own row, and what was asked of its links."""

from collections.abc import Sequence
from typing import Protocol

from brokerd.domain import Claim, Fence, Incarnation
from brokerd.operations import AuditResult, Operation, OperationId, Progress


class Nodes(Protocol):
    """The fleet's register of process starts.

    Every method raises `StoreUnavailable` when Postgres is away.
    """

    async def register(self, name: str, *, max_links: int) -> Incarnation:
        """Open a new incarnation; closes older ones of the same name and frees their leases."""

    async def heartbeat(self, incarnation: Incarnation) -> None:
        """Note by the database's clock that we live. Raises `Fenced` when we were closed."""

    async def bury(self, incarnation: Incarnation, *, silent_seconds: float) -> int:
        """Close other incarnations silent for longer than that, free their leases, count them."""

    async def retire(self, incarnation: Incarnation) -> None:
        """Close our own incarnation and free whatever lease it still holds."""


class RunningLink(Protocol):
    """One link in one slot, as the manager sees it."""

    async def run(self) -> None:
        """Live until the slot is given back: paused, deleted, drained or in a long backoff.

        Releases the lease itself. Raises `Fenced` when the lease is no longer ours.
        """

    def update(self, claim: Claim) -> None:
        """Take over a newer spec."""

    def drain(self) -> None:
        """Ask the link to finish what is in hand, give its slot back and return."""


class OperationStore(Protocol):
    """The rows of what was asked. Every method raises `StoreUnavailable`."""

    async def open_of(self, incarnation: Incarnation) -> Sequence[Operation]:
        """Return what is open for links we own, in the order in which it was asked."""

    async def advance(self, fence: Fence, operation_id: OperationId, progress: Progress) -> bool:
        """Note how far we came, and that the operation runs; False when it is not open any more.

        Raises `Fenced`.
        """

    async def finish(self, fence: Fence, operation_id: OperationId, result: AuditResult) -> bool:
        """Close it as done; False when it is not open any more. Raises `Fenced`."""

    async def sweep(self, *, keep_days: int) -> Sequence[Operation]:
        """Fail what is past its time or asked of a deleted link, and return that.

        Forgets what ended longer ago than `keep_days`.
        """
