"""One link in its slot: dial, and dial again with backoff, until the slot is given back."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from enum import Enum

import structlog

from brokerd.connector.backoff import after_failure, hint_of
from brokerd.connector.board import Board
from brokerd.connector.ports import LinkPorts
from brokerd.connector.refusals import judge, reason_of
from brokerd.connector.session import LinkSession
from brokerd.connector.silence import Rhythm
from brokerd.connector.standing import Standing
from brokerd.connector.states import LinkEvent
from brokerd.connector.waiting import await_turn
from brokerd.domain import Backoff, Claim, Desired, Phase, UserAction
from brokerd.errors import (
    BrokerAway,
    BrokerdError,
    Fenced,
    LinkLost,
    NotFound,
    Rejected,
    StoreUnavailable,
    Transient,
    leaves,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


RELEASE_RETRY_SECONDS = 1.0
NEVER_SECONDS = 100 * 365 * 86_400.0
"""The wait of a link that only a change of its spec or credentials leads on."""


class _Order(Enum):
    """What the link was told from outside."""

    STAY = "stay"
    REDIAL = "redial"  # the spec changed in what a session is made of
    LEAVE = "leave"


class _Doubt(Enum):
    """Whether the broker still takes the credentials; the question costs money."""

    NONE = "none"
    RAISED = "raised"  # it let us in no more for long; the next dial asks
    ASKED = "asked"  # and it is asked no more before the link was live again


class _Told(Exception):
    """Ends an attempt because the link was told something."""


class Link:
    """A `RunningLink`: everything it writes is fenced by the claim it was built from."""

    def __init__(self, claim: Claim, *, ports: LinkPorts) -> None:
        self._claim = claim
        self._ports = ports
        self._settings = ports.settings
        self._board = Board(
            claim,
            lease=ports.lease,
            report_seconds=ports.settings.report_seconds,
            clock=ports.clock,
            metrics=ports.metrics,
        )
        self._backoff = claim.backoff
        self._rhythm = Rhythm()
        self._doubts_broker = _Doubt.NONE
        self._order = _Order.STAY
        self._told = asyncio.Event()

    def update(self, claim: Claim) -> None:
        """Take over a newer spec: leave when unwanted, dial again when the session must change."""
        earlier, self._claim = self._claim, claim
        if claim.is_deleted or claim.spec.desired is not Desired.LIVE:
            self._order = _Order.LEAVE
        elif self._order is _Order.STAY and _needs_new_session(earlier, claim):
            self._order = _Order.REDIAL
        self._told.set()

    def drain(self) -> None:
        """Ask the link to give its slot back and return."""
        self._order = _Order.LEAVE
        self._told.set()

    async def run(self) -> None:
        """Live until the slot is given back; raises `Fenced` when it was taken."""
        self._board.open()
        try:
            async with asyncio.TaskGroup() as attempts:
                await self._stay(attempts)
        except ExceptionGroup as group:
            raise _fence_or(group) from None
        finally:
            self._board.close()

    async def _stay(self, attempts: asyncio.TaskGroup) -> None:
        """Dial again and again, until the slot is given back."""
        self._ports.incidents.joined(self._claim)
        await self._board.enter(LinkEvent.CLAIMED, "Claimed")
        while self._order is not _Order.LEAVE:
            delay_seconds = await self._attempt(attempts)
            if delay_seconds is None or self._order is not _Order.STAY:
                await self._obey()  # also what we were told while we noted the failure
            elif delay_seconds > self._settings.backoff_hold_seconds:
                await self._release(delay_seconds)
                return
            else:
                await self._hold(delay_seconds)
        await self._leave()

    async def _attempt(self, attempts: asyncio.TaskGroup) -> float | None:
        """Dial once; return the seconds to wait after its failure, None when told something.

        In a task of its own: before Python 3.13 a group that failed leaves the task it ran in
        marked as being cancelled, and every later `asyncio.timeout` there may end that task.
        """
        standing = Standing(on_stood=self._forgive, ports=self._ports)
        name = f"attempt:{self._claim.link_id}"
        async with AsyncExitStack() as closing:
            attempt = self._carry_out(standing, closing)
            ended = await attempts.create_task(attempt, name=name)
            _heed_cancellation()
            return await self._conclude(_gravest(ended), standing)

    async def _conclude(self, failure: BrokerdError | _Told, standing: Standing) -> float | None:
        if standing.has_stood:
            await self._forgive()
        if isinstance(failure, _Told):
            return None
        self._ports.incidents.lost(self._claim.link_id)
        if standing.was_live:
            self._doubts_broker = _Doubt.NONE
        if isinstance(failure, BrokerAway) and self._doubts_broker is _Doubt.NONE:
            self._doubts_broker = _Doubt.RAISED
        if isinstance(failure, NotFound) and standing.was_live:
            failure = LinkLost(f"what was there a moment ago is looked for once more: {failure}")
        return await self._fail(failure)

    async def _forgive(self) -> None:
        """Forget the failures before a session that stood; a restart must not remember them."""
        if self._backoff.attempt:
            self._backoff = Backoff()
            self._board.note_attempt(0)
            await self._save_backoff()

    async def _carry_out(
        self, standing: Standing, closing: AsyncExitStack
    ) -> ExceptionGroup[Exception]:
        """Dial and stay until that fails or we are told something; return all that ended it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(), name=f"listen:{self._claim.link_id}")
                group.create_task(
                    self._dial(standing, closing), name=f"session:{self._claim.link_id}"
                )
        except ExceptionGroup as failures:
            return failures
        raise AssertionError("a session ends only by raising")

    async def _dial(self, standing: Standing, closing: AsyncExitStack) -> None:
        """Have the account deployed, then open a session and stay in it; `closing` ends it."""
        await self._await_turn()
        await self._board.enter(LinkEvent.DIALLED, "Dialling")

        async def working(reason: str) -> None:
            await self._board.enter(LinkEvent.PREPARING, reason)

        bring_up = self._ports.provisioning.deployed
        if self._doubts_broker is _Doubt.RAISED:
            self._doubts_broker = _Doubt.ASKED
            bring_up = self._ports.provisioning.restarted
        provisioned = await bring_up(self._claim, working=working)
        if self._board.phase is Phase.PROVISIONING:
            await self._board.enter(LinkEvent.DIALLED, "Dialling")
        session = LinkSession(
            provisioned,
            rhythm=self._rhythm,
            standing=standing,
            board=self._board,
            ports=self._ports,
        )
        closing.push_async_callback(session.close)
        await session.run()

    async def _await_turn(self) -> None:
        """Wait in the slot while others of its incident come back first."""
        link_id = self._claim.link_id
        if self._ports.incidents.turn(link_id, is_up=False) > 0:
            message = "many links failed together; one probes, the others follow one by one"
            await self._board.enter(LinkEvent.LOST, "Incident", message=message)
            await await_turn(link_id, ports=self._ports, is_up=False, is_called_off=lambda: False)

    async def _listen(self) -> None:
        await self._await_order()
        raise _Told

    async def _fail(self, failure: BrokerdError) -> float:
        """Note a failure; return the seconds until the next attempt."""
        self._ports.metrics.link_failures.labels(code=failure.code).inc()
        if isinstance(failure, Rejected):
            return await self._refuse(failure)
        hint_seconds = hint_of(failure)
        wait = after_failure(
            self._backoff,
            base_seconds=self._settings.backoff_base_seconds,
            ceiling_seconds=self._settings.backoff_ceiling_seconds,
            hint_seconds=hint_seconds,
            random=self._ports.random,
        )
        is_new = self._backoff.attempt == 0
        is_expected = self._ports.incidents.is_expected(self._claim)
        level = (log.info if is_expected else log.warning) if is_new else log.debug
        level(
            "link.lost",
            link_id=self._claim.link_id,
            code=failure.code,
            problem=str(failure),
            delay_seconds=round(wait.delay_seconds, 3),
        )
        self._backoff = wait.backoff
        self._board.note_attempt(wait.backoff.attempt)
        is_long = (hint_seconds or 0.0) > self._settings.blocked_recheck_seconds
        is_blocked = is_long or failure.user_action is not UserAction.NONE
        event = LinkEvent.REFUSED if is_blocked else LinkEvent.LOST
        await self._end_attempt(event, failure, wait.delay_seconds)
        return wait.delay_seconds

    async def _refuse(self, failure: Rejected) -> float:
        verdict = judge(failure, self._settings)
        level = log.warning if verdict.event is LinkEvent.AUTH_DOUBTED else log.error
        level(
            "link.refused",
            link_id=self._claim.link_id,
            code=failure.code,
            problem=str(failure),
            delay_seconds=verdict.delay_seconds,
        )
        await self._end_attempt(verdict.event, failure, verdict.delay_seconds)
        return NEVER_SECONDS if verdict.delay_seconds is None else verdict.delay_seconds

    async def _end_attempt(
        self, event: LinkEvent, failure: BrokerdError, delay_seconds: float | None
    ) -> None:
        next_attempt_at = None
        if delay_seconds is not None:
            next_attempt_at = self._ports.clock.now() + timedelta(seconds=delay_seconds)
        await self._board.enter(
            event,
            reason_of(failure),
            message=str(failure),
            user_action=failure.user_action,
            next_attempt_at=next_attempt_at,
        )

    async def _obey(self) -> None:
        """Take the new spec into a fresh attempt, unless told to leave."""
        if self._order is _Order.REDIAL:
            self._order = _Order.STAY
            await self._board.enter(LinkEvent.LOST, "SpecChanged")
            await self._board.note_generation(self._claim.generation)

    async def _hold(self, delay_seconds: float) -> None:
        """Wait in the slot; what we are told ends the wait."""
        await self._save_backoff()
        try:
            async with asyncio.timeout(delay_seconds):
                await self._await_order()
        except TimeoutError:
            return
        await self._obey()

    async def _await_order(self) -> None:
        """Return once we must not stay as we are; what changes nothing is only noted."""
        while self._order is _Order.STAY:
            await self._told.wait()
            self._told.clear()
            if self._order is _Order.STAY:
                await self._board.note_generation(self._claim.generation)

    async def _save_backoff(self) -> None:
        try:
            await self._ports.lease.save_backoff(self._claim.fence, self._backoff)
        except StoreUnavailable:
            log.debug("link.backoff_unsaved", link_id=self._claim.link_id)

    async def _leave(self) -> None:
        """Give the slot back for good or until somebody else takes the link."""
        self._ports.incidents.left(self._claim.link_id)
        await self._board.enter(LinkEvent.LEAVING, "Leaving")
        if self._claim.is_deleted:
            await self._board.enter(LinkEvent.DELETED, "Deleted")
        elif self._claim.spec.desired is Desired.PAUSED:
            await self._board.enter(LinkEvent.UNWANTED, "Paused")
        elif self._claim.spec.desired is Desired.STOPPED:
            await self._board.enter(LinkEvent.STOPPED, "Stopped")
        else:
            await self._board.enter(LinkEvent.RELEASED, "NodeDrained")
        await self._board.note_generation(self._claim.generation)
        await self._release(0.0)

    async def _release(self, delay_seconds: float) -> None:
        """Give the lease back, however long Postgres is away: a lease kept by mistake starves.

        Our last word on the link goes first: without the lease we may not say it any more.
        """
        while True:
            if await self._try_release(delay_seconds):
                return
            await asyncio.sleep(RELEASE_RETRY_SECONDS)

    async def _try_release(self, delay_seconds: float) -> bool:
        try:
            if not await self._board.flush():
                return False
            await self._ports.lease.release(
                self._claim.fence, backoff=self._backoff, delay_seconds=delay_seconds
            )
        except StoreUnavailable:
            return False
        return True


def _heed_cancellation() -> None:
    """End the link if it was cancelled while its attempt failed.

    Before Python 3.13 a group whose tasks fail as it is cancelled tells of the failures alone.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _needs_new_session(earlier: Claim, later: Claim) -> bool:
    return (earlier.spec.metaapi, earlier.spec.sync_from, earlier.credential_version) != (
        later.spec.metaapi,
        later.spec.sync_from,
        later.credential_version,
    )


def _fence_or(group: ExceptionGroup[Exception]) -> Exception:
    """Return the fence among what ended a link, which decides; else all of it, as it came."""
    return next((failure for failure in leaves(group) if isinstance(failure, Fenced)), group)


def _gravest(group: ExceptionGroup[Exception]) -> BrokerdError | _Told:
    """Return what decides of all that ended an attempt.

    What is no failure of a link, a fence or a bug, is raised; then an order, a refusal, a loss.
    """
    failures = list(leaves(group))
    if not all(isinstance(failure, Rejected | Transient | _Told) for failure in failures):
        raise _fence_or(group)
    for kind in (_Told, Rejected, Transient):
        for failure in failures:
            if isinstance(failure, kind):
                return failure
    raise group
