"""The links of this node, each in a slot and a task of its own, and what becomes of their failures.

A slot is taken before its link does anything and free only when its task has ended, so the number
of slots bounds the number of sessions. One link's failure stays in its slot: a fenced link is
forgotten and writes nothing, a crashed one is logged, queued again and paid for by itself alone.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import structlog

from brokerd.clock import Clock
from brokerd.config.settings import LinkSettings
from brokerd.connector.backoff import Wait, after_failure
from brokerd.connector.ports import LeaseHandle
from brokerd.connector.provisioning.errand import is_errand
from brokerd.domain import AccountId, Claim, Desired, Fence, LinkStatus, Phase, UserAction
from brokerd.errors import BrokerdError, Fenced, StoreUnavailable
from brokerd.pool.ports import RunningLink
from brokerd.telemetry import Metrics

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

CRASH_PAUSE_SECONDS = 5.0
"""The least a crashed link waits: a bug repeats at once, and each dial may cost money."""
RELEASE_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPorts:
    """What it takes to run links; `build` makes one from its claim."""

    build: Callable[[Claim], RunningLink]
    leases: LeaseHandle
    settings: LinkSettings
    clock: Clock
    random: Random
    metrics: Metrics


class _Unbuildable:
    """Stands in for a link whose making failed, so that it fails where links may fail."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    async def run(self) -> None:
        """Fail as the making did."""
        raise self._failure

    def update(self, claim: Claim) -> None:
        """Ignore it: the end is near."""

    def drain(self) -> None:
        """Ignore it: the end is near."""


@dataclass(slots=True, kw_only=True)
class _Slot:
    """One taken slot; `claim` is the newest that its link was told."""

    claim: Claim
    link: RunningLink
    task: asyncio.Task[None]
    is_errand: bool
    is_leaving: bool = False
    is_cut: bool = False


class Slots:
    """All taken slots, by fence, in the order of claiming."""

    def __init__(
        self, *, ports: SlotPorts, group: asyncio.TaskGroup, on_free: Callable[[], None]
    ) -> None:
        self._ports = ports
        self._group = group
        self._on_free = on_free
        self._slots: dict[Fence, _Slot] = {}
        self._has_orphans = False

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def fences(self) -> frozenset[Fence]:
        """Return what runs here."""
        return frozenset(self._slots)

    @property
    def staying(self) -> Sequence[Fence]:
        """Return what runs here and was not told to leave, in the order of claiming."""
        return [
            fence
            for fence, slot in self._slots.items()
            if not slot.is_leaving and not slot.is_errand
        ]

    @property
    def errands(self) -> int:
        """Return how many errands run here: they take slots, and go beyond them."""
        return sum(slot.is_errand for slot in self._slots.values())

    def take_orphans(self) -> bool:
        """Say, once, whether a link was cancelled though nobody cut it: its lease is ours still."""
        has_orphans, self._has_orphans = self._has_orphans, False
        return has_orphans

    def open(self, claim: Claim) -> None:
        """Run a link that was just claimed; its task starts once an earlier one of it ended.

        A database that went back may hand out a claim again that it has forgotten: it runs already.
        """
        if claim.fence in self._slots:
            return
        link = self._build(claim)
        task = self._group.create_task(
            self._occupy(claim, link, self._tasks_of(claim.fence.account_id)),
            name=f"link:{claim.link_id}",
        )
        self._slots[claim.fence] = _Slot(
            claim=claim, link=link, task=task, is_errand=is_errand(claim)
        )
        # not a `finally` in the task: one that is cut before its first step never gets there
        task.add_done_callback(lambda ended: self._free(claim, ended))
        self._show()
        log.info("pool.slot_granted", link_id=claim.link_id, epoch=claim.fence.epoch)

    def pass_on(self, claims: Iterable[Claim]) -> None:
        """Hand newer specs to their links; that one is not wanted any more is said every time."""
        for claim in claims:
            slot = self._slots.get(claim.fence)
            if slot is None:
                continue
            is_wanted = claim.spec.desired is Desired.LIVE and not claim.is_deleted
            if claim.generation > slot.claim.generation or not is_wanted:
                slot.claim = claim
                slot.link.update(claim)

    def send_away(self, fences: Iterable[Fence], *, reason: str) -> None:
        """Ask links to finish what is in hand and give their slots back."""
        for slot in self._find(fences):
            if not slot.is_leaving:
                log.info("pool.link_evicted", link_id=slot.claim.link_id, reason=reason)
                slot.is_leaving = True
                slot.link.drain()

    def cut(self, fences: Iterable[Fence], *, reason: str) -> None:
        """End links at once; they write nothing any more, not even their lease."""
        for slot in self._find(fences):
            if not slot.is_cut:
                log.warning("pool.link_cut", link_id=slot.claim.link_id, reason=reason)
                slot.is_leaving = slot.is_cut = True
                slot.task.cancel()

    def _find(self, fences: Iterable[Fence]) -> Sequence[_Slot]:
        return [self._slots[fence] for fence in fences if fence in self._slots]

    def _tasks_of(self, account_id: AccountId) -> Sequence[asyncio.Task[None]]:
        return [slot.task for fence, slot in self._slots.items() if fence.account_id == account_id]

    def _build(self, claim: Claim) -> RunningLink:
        try:
            return self._ports.build(claim)
        except Exception as failure:  # noqa: BLE001  # handed on to the link's own supervisor
            return _Unbuildable(failure)

    async def _occupy(
        self, claim: Claim, link: RunningLink, earlier: Sequence[asyncio.Task[None]]
    ) -> None:
        try:
            if earlier:
                await asyncio.wait(earlier)
            await link.run()
        except Fenced:
            log.warning("link.fenced", link_id=claim.link_id, epoch=claim.fence.epoch)
        except Exception as failure:  # noqa: BLE001  # the supervisor: one link's bug ends no other
            await self._survive(claim, failure)

    def _free(self, claim: Claim, ended: asyncio.Task[None]) -> None:
        slot = self._slots.pop(claim.fence)
        if ended.cancelled() and not slot.is_cut:
            log.error("link.vanished", link_id=claim.link_id, epoch=claim.fence.epoch)
            self._has_orphans = True
        self._show()
        self._on_free()

    async def _survive(self, claim: Claim, failure: Exception) -> None:
        code = failure.code if isinstance(failure, BrokerdError) else BrokerdError.code
        settings = self._ports.settings
        wait = after_failure(
            claim.backoff,
            base_seconds=settings.backoff_base_seconds,
            ceiling_seconds=settings.backoff_ceiling_seconds,
            hint_seconds=CRASH_PAUSE_SECONDS,
            random=self._ports.random,
        )
        self._ports.metrics.link_failures.labels(code=code).inc()
        log.error(
            "link.crashed",
            link_id=claim.link_id,
            code=code,
            delay_seconds=round(wait.delay_seconds, 3),
            exc_info=failure,
        )
        while True:
            try:
                await self._give_back(claim, wait)
            except StoreUnavailable:
                await asyncio.sleep(RELEASE_RETRY_SECONDS)
            except Fenced:
                return
            else:
                return

    async def _give_back(self, claim: Claim, wait: Wait) -> None:
        """Say in the link's place what became of it, then free its lease."""
        now = self._ports.clock.now()
        await self._ports.leases.report(
            claim.fence,
            LinkStatus(
                phase=Phase.BACKOFF,
                reason="Crashed",
                message="brokerd failed on this link; its log says why",
                observed_generation=claim.generation,
                since=now,
                next_attempt_at=now + timedelta(seconds=wait.delay_seconds),
                attempt=wait.backoff.attempt,
                user_action=UserAction.CONTACT_OPERATOR,
            ),
        )
        await self._ports.leases.release(
            claim.fence, backoff=wait.backoff, delay_seconds=wait.delay_seconds
        )

    def _show(self) -> None:
        self._ports.metrics.slots_in_use.set(len(self._slots))
