"""Audits links by the control API and prints what was found: the command `brokerd audit`.

It only asks, follows and prints. The audits are the daemon's: they go on when the command ends, and
a node that restarts meanwhile is followed again once it answers.
"""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from brokerd.api.client import ControlClient, open_client
from brokerd.api.operation_bodies import DifferenceBody, OperationBody
from brokerd.clock import Clock, SystemClock
from brokerd.config.settings import Settings
from brokerd.domain import LinkId, Phase, Proof
from brokerd.errors import ControlRefused, ControlUnavailable

LOOK_SECONDS = 1.0
SILENCE_SECONDS = 60.0
"""How long the API may be away before we give up following; a restart takes less."""
SAY_SECONDS = 10.0
_CONCURRENT_CALLS = 8
_WIDE = 160
"""Of a table that goes into a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """A link, what was last seen of its audit, and why there is none."""

    link_id: LinkId
    operation: OperationBody | None = None
    problem: str = ""

    @property
    def is_ended(self) -> bool:
        """Say whether nothing more will come."""
        return self.operation is None or self.operation.finished_at is not None

    @property
    def is_proven(self) -> bool:
        """Say whether the audit proved the ledger."""
        result = None if self.operation is None else self.operation.result
        return result is not None and result.proof is Proof.PROVEN


def audit(settings: Settings, *, link_id: str | None, wait_seconds: float) -> int:
    """Audit one link, or this node's live links; return 0 only when all were proven.

    Raises `ControlUnavailable`, `ControlRefused` and `ConfigInvalid`.
    """
    wanted = None if link_id is None else LinkId(link_id)
    audited = asyncio.run(_audit(settings, wanted, wait_seconds=wait_seconds))
    out = Console()
    if not out.is_terminal:
        out = Console(width=_WIDE)
    if audited:
        out.print(table_of(audited))
    return 0 if audited and all(each.is_proven for each in audited) else 1


async def _audit(
    settings: Settings, wanted: LinkId | None, *, wait_seconds: float
) -> Sequence[Audited]:
    async with open_client(settings.api) as client:
        chosen = [wanted] if wanted else await _live_links(client, node=settings.node_name)
        begun = await _begin(client, chosen)
        follower = _Follower(client, clock=SystemClock(), wait_seconds=wait_seconds)
        return await follower.follow(begun)


async def _live_links(client: ControlClient, *, node: str) -> Sequence[LinkId]:
    """Choose the node's live links; say which of its links cannot be audited now."""
    ours = [link for link in await client.links() if link.status.node == node]
    live = [LinkId(link.id) for link in ours if link.status.phase is Phase.LIVE]
    others = [f"{link.id} ({link.status.phase})" for link in ours if link.id not in set(live)]
    if others:
        _say(f"not live, so not audited: {', '.join(others)}")
    if not live:
        _say(f"node {node} has no live link")
    return live


async def _begin(client: ControlClient, link_ids: Sequence[LinkId]) -> Sequence[Audited]:
    """Start all audits; what refuses one link stops no other."""
    if len(link_ids) == 1:
        return [Audited(link_id=link_ids[0], operation=await client.audit(link_ids[0]))]
    turns = asyncio.Semaphore(_CONCURRENT_CALLS)

    async def begin(link_id: LinkId) -> Audited:
        async with turns:
            try:
                return Audited(link_id=link_id, operation=await client.audit(link_id))
            except (ControlRefused, ControlUnavailable) as failure:
                return Audited(link_id=link_id, problem=str(failure))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(begin(each), name=f"audit:{each}") for each in link_ids]
    return [task.result() for task in tasks]


class _Follower:
    """Follows audits until all ended, the wait is over, or nobody answers any more."""

    def __init__(self, client: ControlClient, *, clock: Clock, wait_seconds: float) -> None:
        self._client = client
        self._clock = clock
        self._wait_until = clock.monotonic() + wait_seconds
        self._heard_at = clock.monotonic()
        self._say_at = clock.monotonic() + SAY_SECONDS

    async def follow(self, audited: Sequence[Audited]) -> Sequence[Audited]:
        """Return what became of them. Raises `ControlUnavailable`."""
        while not all(each.is_ended for each in audited):
            if self._clock.monotonic() >= self._wait_until:
                _say("the wait is over; the audits that are still open go on")
                break
            await asyncio.sleep(LOOK_SECONDS)
            audited = [await self._look(each) for each in audited]
            self._tell(audited)
        return audited

    async def _look(self, each: Audited) -> Audited:
        if each.operation is None or each.is_ended:
            return each
        try:
            seen = await self._client.operation(each.operation.id)
        except ControlUnavailable:
            if self._clock.monotonic() - self._heard_at > SILENCE_SECONDS:
                raise
            return each
        self._heard_at = self._clock.monotonic()
        return replace(each, operation=seen)

    def _tell(self, audited: Sequence[Audited]) -> None:
        """Say now and then how far all of it is."""
        if self._clock.monotonic() < self._say_at:
            return
        self._say_at += SAY_SECONDS
        ended = sum(each.is_ended for each in audited)
        left = sum(each.operation.progress.windows_left for each in audited if each.operation)
        _say(f"{ended} of {len(audited)} audits ended, {left} windows to read")


def table_of(audited: Iterable[Audited]) -> Table:
    """Show what was found, a link a row."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("link", overflow="fold")
    table.add_column("proof")
    table.add_column("broker minus ledger", justify="right")
    for name in ("windows", "found", "revised", "missing", "receipts"):
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    for each in audited:
        table.add_row(*(Text(cell) for cell in _cells(each)))  # a stranger's text is no markup
    return table


def _cells(each: Audited) -> Sequence[str]:
    operation = each.operation
    if operation is None:
        return (each.link_id, "not audited", *[""] * 6, each.problem)
    result = operation.result
    if result is None:
        read = str(operation.progress.windows_read)
        return (each.link_id, operation.state, "", read, *[""] * 4, _why_open(operation))
    return (
        each.link_id,
        result.proof,
        "" if result.difference is None else _difference(result.difference),
        *(str(result.windows), str(result.inserted), str(result.revised)),
        *(str(result.missing), str(result.false_receipts)),
        result.detail,
    )


def _difference(difference: DifferenceBody) -> str:
    credit = "" if difference.credit == "0" else f", credit {difference.credit}"
    return f"{difference.balance} {difference.currency}{credit}"


def _why_open(operation: OperationBody) -> str:
    """Say why there is no result, and where to look for it later."""
    if operation.problem is not None:
        return operation.problem.title
    waiting = operation.waiting_for
    why = operation.progress.note if waiting is None else f"the link is {waiting.phase}"
    return "; ".join(part for part in (why, f"operation {operation.id}") if part)


def _say(words: str) -> None:
    """Say something beside the table."""
    sys.stderr.write(f"{words}\n")
