"""The registry of links over plain values: the same promises as `postgres`, for tests."""

from collections.abc import Sequence
from dataclasses import replace

from brokerd.api.ports import (
    LinkRecord,
    PutResult,
    QueuePlace,
    SubmitResult,
    SubmittedPassword,
)
from brokerd.api.registration import Put, Registered, Registration, Waiting, decide
from brokerd.api.submission import Found, decide_submission
from brokerd.config.settings import QueueSettings
from brokerd.connector.provisioning.memory import MemoryMoney
from brokerd.domain import (
    AccountId,
    Backoff,
    LinkId,
    LinkSpec,
    LinkStatus,
    MetaApiRef,
    Phase,
    QuarantineState,
    UserAction,
    UserId,
)
from brokerd.errors import QueueFull, StoreUnavailable
from brokerd.queue.deadlines import turn
from brokerd.store.memory import AccountRow, HeadRow, LeaseRow, MemoryState, TransitionRow


class MemoryRegistry:
    """A `Registry` over a `MemoryState`; `is_reachable` plays the outage."""

    def __init__(
        self, state: MemoryState, *, settings: QueueSettings, money: MemoryMoney | None = None
    ) -> None:
        self._state = state
        self._settings = settings
        self._money = money or MemoryMoney(state=state)
        self.is_reachable = True

    async def ping(self) -> None:
        """Give a sign of life; raises `StoreUnavailable`."""
        if not self.is_reachable:
            raise StoreUnavailable("the store is away")

    async def put(
        self, link_id: LinkId, spec: LinkSpec, *, if_match: int | None, must_be_new: bool
    ) -> PutResult:
        """Create or replace a spec."""
        await self.ping()
        put = Put(link_id=link_id, spec=spec, if_match=if_match, must_be_new=must_be_new)
        decided = decide(
            put,
            named=self._named(link_id),
            identified=self._identified(spec),
            now=self._state.clock.now(),
            patience_seconds=self._settings.patience_seconds,
        )
        if decided.joins_queue:
            self._check_room()
        account_id = decided.account_id or AccountId(max(self._state.accounts, default=0) + 1)
        if decided.is_changed:
            self._write(account_id, put, decided)
        record = self._record(account_id)
        return PutResult(record=record, is_new=decided.is_new, is_changed=decided.is_changed)

    async def submit(self, link_id: LinkId, password: SubmittedPassword) -> SubmitResult | None:
        """Store a password for the link's owner to use."""
        await self.ping()
        named = self._named(link_id)
        if named is None:
            return None
        account_id = named.account_id
        account = self._state.accounts[account_id]
        version = account.credential_version
        decided = decide_submission(
            password,
            named=named,
            found=Found(
                now=self._state.clock.now(),
                version=version,
                is_provisioned=account.created_id is not None
                or isinstance(account.spec.metaapi, MetaApiRef),
                kept=self._money.kept(account_id, version),
                is_known_bad=self._money.is_known_bad(password.digests),
            ),
            patience_seconds=self._settings.patience_seconds,
        )
        if decided is None:
            return SubmitResult(credential_version=version, is_changed=False)
        self._write(account_id, Put(link_id=link_id, spec=named.spec), decided)
        self._money.submit(account_id, digest=password.digest, sealed=password.sealed)
        return SubmitResult(credential_version=version + 1, is_changed=True)

    async def get(self, link_id: LinkId) -> LinkRecord | None:
        """Read one link; the living one before one of the same id that still drains."""
        await self.ping()
        found = [row for row in self._visible() if row.link_id == link_id]
        found.sort(key=lambda row: row.deleted_at is not None)
        return self._record(found[0].account_id) if found else None

    async def page(
        self, *, user_id: UserId | None, after: LinkId | None, limit: int
    ) -> Sequence[LinkRecord]:
        """Read links in the order of their ids, starting behind `after`."""
        await self.ping()
        ids = sorted(
            {
                row.link_id
                for row in self._visible()
                if user_id in {None, row.spec.user_id} and (after is None or row.link_id > after)
            }
        )
        found = [await self.get(link_id) for link_id in ids[:limit]]
        return [record for record in found if record is not None]

    async def delete(self, link_id: LinkId, *, removes_remote: bool = False) -> bool:
        """Ask the link to end; its ledger stays."""
        await self.ping()
        is_known = any(row.link_id == link_id for row in self._visible())
        living = self._named(link_id)
        if living is not None:
            state, account_id, now = self._state, living.account_id, self._state.clock.now()
            row = state.accounts[account_id]
            state.accounts[account_id] = replace(
                row,
                deleted_at=now,
                updated_at=now,
                generation=row.generation + 1,
                removes_remote=removes_remote,
            )
            lease = replace(state.leases[account_id], is_wanted=False)
            at_once = replace(lease, has_errand=True, not_before=None)
            state.leases[account_id] = at_once if removes_remote else lease
            self._money.erase(account_id)
        return is_known

    def _visible(self) -> Sequence[AccountRow]:
        leases = self._state.leases
        return [
            row
            for row in self._state.accounts.values()
            if row.deleted_at is None
            or leases[row.account_id].owner is not None
            or leases[row.account_id].has_errand
        ]

    def _named(self, link_id: LinkId) -> Registered | None:
        for row in self._state.accounts.values():
            if row.link_id == link_id and row.deleted_at is None:
                return self._registered(row)
        return None

    def _identified(self, spec: LinkSpec) -> Registered | None:
        wanted = replace(spec.identity, currency="")
        for row in self._state.accounts.values():
            if replace(row.spec.identity, currency="") == wanted:
                return self._registered(row)
        return None

    def _registered(self, row: AccountRow) -> Registered:
        lease = self._state.leases[row.account_id]
        return Registered(
            account_id=row.account_id,
            link_id=row.link_id,
            spec=row.spec,
            generation=row.generation,
            is_deleted=row.deleted_at is not None,
            is_owned=lease.owner is not None,
            waiting=Waiting(
                is_wanted=lease.is_wanted,
                deadline=lease.deadline,
                queued_at=lease.queued_at,
                not_before=lease.not_before,
                backoff=Backoff(attempt=lease.attempt, bound_seconds=lease.backoff_bound_seconds),
                has_errand=lease.has_errand,
            ),
        )

    def _check_room(self) -> None:
        leases = self._state.leases.values()
        length = sum(lease.owner is None and lease.is_wanted for lease in leases)
        if length >= self._settings.max_length:
            raise QueueFull(f"{length} links wait already, and queue.max_length allows no more")

    def _write(self, account_id: AccountId, put: Put, decided: Registration) -> None:
        state, now = self._state, self._state.clock.now()
        before = state.accounts.get(account_id)
        state.accounts[account_id] = AccountRow(
            account_id=account_id,
            link_id=put.link_id,
            spec=put.spec,
            generation=decided.generation,
            created_at=before.created_at if before else now,
            updated_at=now,
            margin_mode=before.margin_mode if before else None,
            trade_mode=before.trade_mode if before else None,
            created_id=before.created_id if before and not decided.forgets_created else None,
            credential_version=before.credential_version if before else 0,
        )
        if decided.forgets_auth:
            self._money.forget_auth(account_id)
        waiting, lease = decided.waiting, state.leases.get(account_id)
        state.leases[account_id] = LeaseRow(
            account_id=account_id,
            owner=lease.owner if lease else None,
            epoch=lease.epoch if lease else 0,
            is_wanted=waiting.is_wanted,
            deadline=waiting.deadline,
            queued_at=waiting.queued_at,
            not_before=waiting.not_before,
            attempt=waiting.backoff.attempt,
            backoff_bound_seconds=waiting.backoff.bound_seconds,
            has_errand=waiting.has_errand,
        )
        if not decided.is_owned:
            self._write_status(account_id, decided)

    def _write_status(self, account_id: AccountId, decided: Registration) -> None:
        """Say of a link that nobody runs that its newest spec is observed, and where it rests."""
        state, now = self._state, self._state.clock.now()
        reason = (decided.entered or Phase.QUEUED).capitalize()
        fresh = LinkStatus(
            phase=decided.entered or Phase.QUEUED,
            reason=reason,
            message="",
            observed_generation=decided.generation,
            since=now,
            attempt=decided.waiting.backoff.attempt,
        )
        before = state.links.get(account_id, fresh)
        if decided.entered is None:
            state.links[account_id] = replace(before, observed_generation=decided.generation)
            return
        state.links[account_id] = replace(
            before,
            phase=decided.entered,
            reason=reason,
            message="",
            observed_generation=decided.generation,
            since=now,
            next_attempt_at=None,
            attempt=fresh.attempt,
            user_action=UserAction.NONE,
        )
        state.transitions.append(
            TransitionRow(account_id=account_id, at=now, phase=decided.entered, reason=reason)
        )

    def _record(self, account_id: AccountId) -> LinkRecord:
        state = self._state
        row, lease = state.accounts[account_id], state.leases[account_id]
        node = state.nodes.get(lease.owner) if lease.owner is not None else None
        held = (d for d in state.deals.values() if d.account_id == account_id)
        return LinkRecord(
            link_id=row.link_id,
            spec=row.spec,
            generation=row.generation,
            created_at=row.created_at,
            is_deleted=row.deleted_at is not None,
            status=state.links[account_id],
            owner=lease.owner,
            owner_name=node.name if node else None,
            epoch=lease.epoch,
            watermark=state.heads.get(account_id, HeadRow()).watermark,
            deals=sum(deal.removed_at is None for deal in held),
            open_gaps=sum(
                each.account_id == account_id and each.state is QuarantineState.OPEN
                for each in state.quarantine.values()
            ),
            queued_at=lease.queued_at,
            not_before=lease.not_before,
            has_errand=lease.has_errand,
            created_id=row.created_id,
            credential_version=row.credential_version,
            queue=self._place(lease),
            read_at=state.clock.now(),
        )

    def _place(self, lease: LeaseRow) -> QueuePlace | None:
        now = self._state.clock.now()
        ready = sorted(
            turn(each.deadline, each.account_id)
            for each in self._state.leases.values()
            if each.owner is None
            and each.is_wanted
            and (each.not_before is None or each.not_before <= now)
        )
        mine = turn(lease.deadline, lease.account_id)
        if mine not in ready:
            return None
        return QueuePlace(
            position=ready.index(mine) + 1,
            age_seconds=0.0,
            waiting_seconds=max(0.0, (now - lease.queued_at).total_seconds()),
        )
