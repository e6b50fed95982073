"""One link in its slot: dial, and dial again with backoff, until the slot is given back."""

import asyncio
from datetime import timedelta
from enum import Enum

import structlog

from brokerd.connector.backoff import after_failure, hint_of
from brokerd.connector.board import Board
from brokerd.connector.ports import LinkPorts
from brokerd.connector.session import LinkSession
from brokerd.connector.states import LinkEvent
from brokerd.domain import Backoff, Claim, Desired, UserAction
from brokerd.errors import (
    AccountDisabled,
    AuthFailed,
    BrokerdError,
    Fenced,
    IdentityMismatch,
    NotDeployed,
    Rejected,
    StoreUnavailable,
    TermsRequired,
    TopUpRequired,
    Transient,
    Unauthorized,
    leaves,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


RELEASE_RETRY_SECONDS = 1.0


class _Order(Enum):
    """What the link was told from outside."""

    STAY = "stay"
    REDIAL = "redial"  # the spec changed in what a session is made of
    LEAVE = "leave"


class _Told(Exception):
    """Ends an attempt because the link was told something."""


class Link:
    """A `RunningLink`: everything it writes is fenced by the claim it was built from."""

    def __init__(self, claim: Claim, *, ports: LinkPorts) -> None:
        self._claim = claim
        self._ports = ports
        self._settings = ports.settings
        self._board = Board(claim, lease=ports.lease, clock=ports.clock, metrics=ports.metrics)
        self._backoff = claim.backoff
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
        session = LinkSession(self._claim, board=self._board, ports=self._ports)
        name = f"attempt:{self._claim.link_id}"
        ended = await attempts.create_task(self._carry_out(session), name=name)
        _heed_cancellation()
        failure = _gravest(ended)
        if session.stood_seconds >= self._settings.stable_seconds:
            self._backoff = Backoff()
            self._board.note_attempt(0)
        if isinstance(failure, _Told):
            return None
        return await self._fail(failure)

    async def _carry_out(self, session: LinkSession) -> ExceptionGroup[Exception]:
        """Run a session until it fails or we are told something; return all that ended it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(), name=f"listen:{self._claim.link_id}")
                group.create_task(session.run(), name=f"session:{self._claim.link_id}")
        except ExceptionGroup as failures:
            return failures
        raise AssertionError("a session ends only by raising")

    async def _listen(self) -> None:
        await self._await_order()
        raise _Told

    async def _fail(self, failure: BrokerdError) -> float:
        """Note a failure; return the seconds until the next attempt."""
        self._ports.metrics.link_failures.labels(code=failure.code).inc()
        if isinstance(failure, Rejected):
            return await self._refuse(failure)
        wait = after_failure(
            self._backoff,
            base_seconds=self._settings.backoff_base_seconds,
            ceiling_seconds=self._settings.backoff_ceiling_seconds,
            hint_seconds=hint_of(failure),
            random=self._ports.random,
        )
        level = log.warning if self._backoff.attempt == 0 else log.debug
        level(
            "link.lost",
            link_id=self._claim.link_id,
            code=failure.code,
            problem=str(failure),
            delay_seconds=round(wait.delay_seconds, 3),
        )
        self._backoff = wait.backoff
        self._board.note_attempt(wait.backoff.attempt)
        await self._end_attempt(LinkEvent.LOST, failure, wait.delay_seconds)
        return wait.delay_seconds

    async def _refuse(self, failure: Rejected) -> float:
        delay_seconds = self._settings.blocked_recheck_seconds
        is_mismatch = isinstance(failure, IdentityMismatch)
        log.error(
            "link.refused",
            link_id=self._claim.link_id,
            code=failure.code,
            problem=str(failure),
            delay_seconds=delay_seconds,
        )
        event = LinkEvent.MISMATCHED if is_mismatch else LinkEvent.REFUSED
        await self._end_attempt(event, failure, delay_seconds)
        return delay_seconds

    async def _end_attempt(
        self, event: LinkEvent, failure: BrokerdError, delay_seconds: float
    ) -> None:
        await self._board.enter(
            event,
            _reason(failure),
            message=str(failure),
            user_action=_user_action(failure),
            next_attempt_at=self._ports.clock.now() + timedelta(seconds=delay_seconds),
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
        await self._board.enter(LinkEvent.LEAVING, "Leaving")
        if self._claim.is_deleted:
            await self._board.enter(LinkEvent.DELETED, "Deleted")
        elif self._claim.spec.desired is Desired.PAUSED:
            await self._board.enter(LinkEvent.UNWANTED, "Paused")
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
    return (earlier.spec.metaapi, earlier.spec.sync_from) != (
        later.spec.metaapi,
        later.spec.sync_from,
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


def _reason(failure: BrokerdError) -> str:
    """Return the failure's stable code in the form conditions use: CamelCase."""
    return "".join(part.capitalize() for part in failure.code.split("_"))


def _user_action(failure: BrokerdError) -> UserAction:
    for kind, action in _USER_ACTIONS.items():
        if isinstance(failure, kind):
            return action
    return UserAction.NONE


_USER_ACTIONS: dict[type[BrokerdError], UserAction] = {
    AuthFailed: UserAction.UPDATE_CREDENTIALS,
    TermsRequired: UserAction.ACCEPT_BROKER_TERMS,
    AccountDisabled: UserAction.CONTACT_BROKER,
    TopUpRequired: UserAction.TOP_UP,
    NotDeployed: UserAction.DEPLOY_ACCOUNT,
    Unauthorized: UserAction.FIX_TOKEN,
    IdentityMismatch: UserAction.FIX_IDENTITY,
    Rejected: UserAction.CONTACT_OPERATOR,
}
"""Who must act on which refusal; the first that fits decides."""
