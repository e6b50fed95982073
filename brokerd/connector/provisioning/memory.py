"""Intents, spending and sealed passwords over plain values: the same promises as `postgres`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

from brokerd.connector.provisioning.budgets import BudgetName, Limit, Spent, refusal_of
from brokerd.connector.provisioning.outcome import ABANDONED, DONE
from brokerd.connector.provisioning.ports import (
    CHARGEABLE,
    Auth,
    Call,
    Charge,
    CredentialState,
    Intent,
    IntentKind,
    KeptPassword,
    KnownCredentials,
    Outcome,
    Refusal,
    Sealed,
    Standing,
)
from brokerd.domain import AccountId, Fence, LinkId, UserId
from brokerd.errors import Fenced
from brokerd.store.memory import HeadRow, MemoryState


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRow:
    """A password of an account, as in table `credentials`."""

    digest: str
    sealed: Sealed | None
    state: CredentialState = CredentialState.WAITING


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthRow:
    """What table `accounts` keeps of the broker's last word."""

    auth: Auth = Auth.OK
    at: datetime | None = None
    locked_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentRow:
    """A call, as in table `intents`."""

    account_id: AccountId
    intent: Intent
    generation: int
    closed_at: datetime | None = None
    code: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendRow:
    """What a call cost, as in table `spend`."""

    account_id: AccountId
    user_id: UserId
    charge: Charge
    usd: Decimal
    at: datetime


@dataclass(slots=True, kw_only=True)
class MemoryMoney:
    """The tables of provisioning in one imagined database."""

    state: MemoryState
    credentials: dict[tuple[AccountId, int], CredentialRow] = field(default_factory=dict)
    rejected: dict[str, datetime] = field(default_factory=dict)
    auths: dict[AccountId, AuthRow] = field(default_factory=dict)
    intents: dict[int, IntentRow] = field(default_factory=dict)
    spend: dict[int, SpendRow] = field(default_factory=dict)

    def submit(self, account_id: AccountId, *, digest: str, sealed: Sealed) -> None:
        """Keep a newer password; older ones are erased unless an open call needs them."""
        account = self.state.accounts[account_id]
        version = account.credential_version + 1
        self.state.accounts[account_id] = replace(account, credential_version=version)
        self.credentials[account_id, version] = CredentialRow(digest=digest, sealed=sealed)
        open_row = self.open_intent(account_id)
        needed = None if open_row is None else open_row.intent.credential_version
        for (owner, older), row in list(self.credentials.items()):
            if owner == account_id and older < version and older != needed:
                self.credentials[owner, older] = replace(row, sealed=None)

    def kept(self, account_id: AccountId, version: int) -> KeptPassword | None:
        """Return what is known of a password."""
        row = self.credentials.get((account_id, version))
        if row is None:
            return None
        refused = (
            each
            for each in self.intents.values()
            if each.account_id == account_id
            and each.intent.credential_version == version
            and each.intent.kind in CHARGEABLE
            and each.code not in {"", DONE, ABANDONED}
        )
        return KeptPassword(
            digest=row.digest,
            state=row.state,
            is_sealed=row.sealed is not None,
            was_refused=any(refused),
        )

    def open_intent(self, account_id: AccountId) -> IntentRow | None:
        """Return the account's open intent."""
        rows = self.intents.values()
        return next(
            (row for row in rows if row.account_id == account_id and row.closed_at is None), None
        )

    def erase(self, account_id: AccountId) -> None:
        """Erase the passwords of an account that nothing will ask for any more."""
        for (owner, version), row in list(self.credentials.items()):
            if owner == account_id:
                self.credentials[owner, version] = replace(row, sealed=None)

    def forget_auth(self, account_id: AccountId) -> None:
        """Forget what the broker said: it is about another account at MetaApi, or password."""
        row = self.auths.get(account_id, AuthRow())
        self.auths[account_id] = replace(row, auth=Auth.OK, at=None)

    def is_known_bad(self, digests: Iterable[str]) -> bool:
        """Say whether a broker refused one of them, not too long ago."""
        now = self.state.clock.now()
        return any(self.rejected.get(digest, now) > now for digest in digests)

    def spent(self, limit: Limit, *, account_id: AccountId | None, user_id: UserId | None) -> Spent:
        """Add up one budget."""
        now = self.state.clock.now()
        since = now - timedelta(seconds=limit.window_seconds)
        rows = [
            row
            for row in self.spend.values()
            if row.charge is not Charge.NONE
            and row.at > since
            and (limit.name is not BudgetName.LINK or row.account_id == account_id)
            and (limit.name is not BudgetName.USER or row.user_id == user_id)
        ]
        oldest = min((row.at for row in rows), default=None)
        return Spent(
            attempts=len(rows),
            usd=sum((row.usd for row in rows), Decimal(0)),
            frees_seconds=None if oldest is None else (oldest - since).total_seconds(),
        )


class MemoryIntents:
    """`Intents` over a `MemoryMoney`."""

    def __init__(self, money: MemoryMoney) -> None:
        self._money = money
        self._state = money.state

    async def standing(self, account_id: AccountId, *, generation: int) -> Standing:
        """Read what is known of an account's life at MetaApi."""
        account = self._state.accounts[account_id]
        auth = self._money.auths.get(account_id, AuthRow())
        open_row = self._money.open_intent(account_id)
        return Standing(
            now=self._state.clock.now(),
            created_id=account.created_id,
            credentials=self._credentials(account_id),
            intent=None if open_row is None else open_row.intent,
            refusal=self._refusal(account_id, generation),
            auth=auth.auth,
            auth_at=auth.at,
            locked_until=auth.locked_until,
            deployed_at=self._deployed_at(account_id),
            watermark=self._state.heads.get(account_id, HeadRow()).watermark,
        )

    async def open(self, fence: Fence, call: Call, *, limits: Sequence[Limit]) -> Intent:
        """Commit the intent and its reserve."""
        self._require_held(fence)
        if self._money.open_intent(fence.account_id) is not None:
            raise Fenced("another intent of the account is open")
        now, account = self._state.clock.now(), self._state.accounts[fence.account_id]
        if call.reserve_usd is not None:
            self._check_budgets(fence.account_id, call.reserve_usd, limits)
        intent = Intent(
            intent_id=len(self._money.intents) + 1,
            kind=call.kind,
            transaction_id=call.transaction_id,
            credential_version=call.credential_version,
            opened_at=now,
        )
        self._money.intents[intent.intent_id] = IntentRow(
            account_id=fence.account_id, intent=intent, generation=call.generation
        )
        if call.reserve_usd is not None:
            self._money.spend[intent.intent_id] = SpendRow(
                account_id=fence.account_id,
                user_id=account.spec.user_id,
                charge=Charge.RESERVED,
                usd=call.reserve_usd,
                at=now,
            )
        return intent

    async def close(self, fence: Fence, intent: Intent, outcome: Outcome) -> None:
        """Note how the call ended, with all that follows."""
        self._require_held(fence)
        row = self._money.intents[intent.intent_id]
        if row.closed_at is not None:
            return
        self._money.intents[intent.intent_id] = replace(
            row,
            closed_at=self._state.clock.now(),
            code=outcome.code,
            problem=outcome.problem,
        )
        self._settle(intent, outcome)
        self._tell_account(fence.account_id, intent, outcome)
        self._tell_credentials(fence.account_id, intent, outcome)

    async def adopt(self, fence: Fence, created_id: str | None) -> None:
        """Note which MetaApi account is the link's."""
        self._require_held(fence)
        account = self._state.accounts[fence.account_id]
        self._state.accounts[fence.account_id] = replace(account, created_id=created_id)

    async def sealed(self, account_id: AccountId, *, version: int) -> Sealed | None:
        """Return a password that still waits."""
        row = self._money.credentials.get((account_id, version))
        return None if row is None else row.sealed

    # Reading.

    def _closed(self, account_id: AccountId) -> Sequence[IntentRow]:
        rows = self._money.intents.values()
        return [row for row in rows if row.account_id == account_id and row.closed_at is not None]

    def _credentials(self, account_id: AccountId) -> KnownCredentials | None:
        version = self._state.accounts[account_id].credential_version
        row = self._money.credentials.get((account_id, version))
        if row is None:
            return None
        is_known_bad = self._money.is_known_bad([row.digest])
        return KnownCredentials(version=version, state=row.state, is_known_bad=is_known_bad)

    def _refusal(self, account_id: AccountId, generation: int) -> Refusal | None:
        version = self._state.accounts[account_id].credential_version
        rows = [
            row
            for row in self._closed(account_id)
            if row.intent.kind in CHARGEABLE
            and row.generation == generation
            and row.intent.credential_version == version
        ]
        if not rows or rows[-1].code in {DONE, ABANDONED} or rows[-1].closed_at is None:
            return None
        last = rows[-1]
        return Refusal(code=last.code, problem=last.problem, at=rows[-1].closed_at)

    def _deployed_at(self, account_id: AccountId) -> datetime | None:
        moments = [
            row.closed_at
            for row in self._closed(account_id)
            if row.code == DONE and row.intent.kind in {IntentKind.CREATE, IntentKind.DEPLOY}
        ]
        return moments[-1] if moments else None

    # Opening.

    def _check_budgets(
        self, account_id: AccountId, cost_usd: Decimal, limits: Sequence[Limit]
    ) -> None:
        user_id = self._state.accounts[account_id].spec.user_id
        spent = {
            limit.name: self._money.spent(limit, account_id=account_id, user_id=user_id)
            for limit in limits
        }
        refusal = refusal_of(limits, spent, cost_usd=cost_usd)
        if refusal is not None:
            raise refusal

    def _require_held(self, fence: Fence) -> None:
        if not self._state.holds(fence):
            raise Fenced("the lease is no longer ours")

    # Closing.

    def _settle(self, intent: Intent, outcome: Outcome) -> None:
        row = self._money.spend.get(intent.intent_id)
        if row is not None:
            self._money.spend[intent.intent_id] = replace(
                row,
                charge=outcome.charge or row.charge,
                usd=row.usd if outcome.usd is None else outcome.usd,
            )

    def _tell_account(self, account_id: AccountId, intent: Intent, outcome: Outcome) -> None:
        now, account = self._state.clock.now(), self._state.accounts[account_id]
        created_id = outcome.created_id or account.created_id
        self._state.accounts[account_id] = replace(account, created_id=created_id)
        row = self._money.auths.get(account_id, AuthRow())
        if outcome.auth is not None and intent.credential_version == account.credential_version:
            row = replace(row, auth=outcome.auth, at=now)
        if outcome.locked_seconds is not None:
            row = replace(row, locked_until=now + timedelta(seconds=outcome.locked_seconds))
        self._money.auths[account_id] = row

    def _tell_credentials(self, account_id: AccountId, intent: Intent, outcome: Outcome) -> None:
        newest = self._state.accounts[account_id].credential_version
        for (owner, version), row in list(self._money.credentials.items()):
            if owner != account_id:
                continue
            is_his = version == intent.credential_version
            is_over = version < newest or (is_his and outcome.credentials is not None)
            self._money.credentials[owner, version] = replace(
                row,
                state=(outcome.credentials or row.state) if is_his else row.state,
                sealed=None if is_over else row.sealed,
            )
            if is_his and outcome.remembers_seconds is not None:
                lasting = timedelta(seconds=outcome.remembers_seconds)
                self._money.rejected[row.digest] = self._state.clock.now() + lasting


class MemorySpend:
    """`SpendReader` over a `MemoryMoney`."""

    def __init__(self, money: MemoryMoney) -> None:
        self._money = money

    async def spent(self, limits: Sequence[Limit]) -> Mapping[BudgetName, Spent]:
        """Return by budget what was spent in its window; of links and users, the most of any."""
        rows = self._money.spend.values()
        payers = {(row.account_id, row.user_id) for row in rows} | {(None, None)}
        found: dict[BudgetName, Spent] = {}
        for limit in limits:
            each = [
                self._money.spent(limit, account_id=account_id, user_id=user_id)
                for account_id, user_id in payers
            ]
            found[limit.name] = Spent(
                attempts=max(spent.attempts for spent in each),
                usd=max(spent.usd for spent in each),
            )
        return found

    async def spent_by(
        self, link_id: LinkId, limits: Sequence[Limit]
    ) -> Mapping[BudgetName, Spent]:
        """Return by budget what was spent in its window of what one link may spend."""
        rows = self._money.state.accounts.values()
        account = next(row for row in rows if row.link_id == link_id and row.deleted_at is None)
        return {
            limit.name: self._money.spent(
                limit, account_id=account.account_id, user_id=account.spec.user_id
            )
            for limit in limits
        }

    async def charges(self, *, window_seconds: float) -> Mapping[Charge, Spent]:
        """Return what was spent in the window by what it was for."""
        since = self._money.state.clock.now() - timedelta(seconds=window_seconds)
        found: dict[Charge, Spent] = {}
        for row in self._money.spend.values():
            if row.at > since:
                before = found.get(row.charge, Spent())
                found[row.charge] = Spent(attempts=before.attempts + 1, usd=before.usd + row.usd)
        return found
