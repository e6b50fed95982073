"""The switchboard of faults: which are on, for whom, how often, and how often they struck."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from random import Random


class FaultKind(StrEnum):
    """Every fault the sandbox can inject; what `Fault` parameters mean is beside each."""

    DROP_SOCKETS = "drop_sockets"  # cut every socket of the accounts, once per strike
    DROP_IDLE_SOCKETS = "drop_idle_sockets"  # cut only sockets of instance 1
    DELAY_IDLE_SOCKET = "delay_idle_socket"  # all are cut, those of instance 1 `seconds` later
    STOP_STATUS = "stop_status"  # no heartbeat; all else is sent
    MUTE = "mute"  # nothing at all is sent on the stream
    STALL_UPGRADE = "stall_upgrade"  # the websocket probe is not answered
    BURST_AFTER_SYNC = "burst_after_sync"  # `count` deals right after dealSynchronizationFinished
    DELAY = "delay"  # a REST answer waits `seconds`
    THROTTLE = "throttle"  # 429 with metadata and Retry-After of `seconds`
    THROTTLE_BARE = "throttle_bare"  # 429 with neither
    SERVER_ERROR = "server_error"  # `status` (500, 502, 503, 504), HTML when `is_html`
    BROKER_DISCONNECT = "broker_disconnect"  # the terminal loses its broker while this is on
    LOSE_PACKETS = "lose_packets"  # a stream packet is dropped, its number with it
    DUPLICATE_PACKETS = "duplicate_packets"  # a stream packet is sent twice
    REORDER_PACKETS = "reorder_packets"  # a stream packet is sent after its successor
    LATE_DEALS = "late_deals"  # the broker back-dates a deal quietly
    EDITED_DEALS = "edited_deals"  # the broker changes a recent deal quietly
    DELETED_DEALS = "deleted_deals"  # the broker removes a recent deal quietly
    SYNCHRONIZING = "synchronizing"  # history answers are partial and say so


class StagedFault(StrEnum):
    """Faults that tests stage one at a time; the demo's storm has none of them."""

    REFUSE_AUTH = "refuse_auth"  # right credentials are answered E_AUTH
    FAIL_AFTER_CREATE = "fail_after_create"  # the account is made, the answer is `status`
    LOSE_ANSWER = "lose_answer"  # an order is carried out, the connection cut before the answer
    GARBLE = "garble"  # a 200 whose body is cut in half, or HTML when `is_html`
    ERROR_AS_OK = "error_as_ok"  # a 200 whose body is an error
    BLACK_HOLE = "black_hole"  # a socket stays open and carries nothing more, no pong either
    IGNORE_HASHES = "ignore_hashes"  # a synchronization sends all specifications, known or not
    FAIL_DEPLOY = "fail_deploy"  # a deployment ends in DEPLOY_FAILED or REDEPLOY_FAILED


AnyFault = FaultKind | StagedFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault switched on.

    `account_ids` None means every account. `probability` decides each opportunity; `limit` is how
    often it may strike in all, None without end. For the three quiet kinds (late, edited, deleted)
    and for those that cut sockets opportunities come `per_minute` times a minute over all accounts
    in scope; sockets are cut the first time at once.
    """

    kind: AnyFault
    account_ids: frozenset[str] | None = None
    probability: float = 1.0
    limit: int | None = None
    seconds: float = 1.0
    count: int = 10
    status: int = 500
    is_html: bool = False
    per_minute: float = 6.0
    max_age: timedelta = field(default=timedelta(hours=70))

    def covers(self, account_id: str | None) -> bool:
        """Say whether the fault is meant for the account; None asks for no account at all."""
        return self.account_ids is None or (
            account_id is not None and account_id in self.account_ids
        )


class Faults:
    """Which faults are on. At most one of each kind."""

    def __init__(self, *, random: Random) -> None:
        self._random = random
        self._active: dict[AnyFault, Fault] = {}
        self._since_on: Counter[AnyFault] = Counter()
        self._injected: Counter[AnyFault] = Counter()

    @property
    def active(self) -> tuple[Fault, ...]:
        """Return the faults that are on."""
        return tuple(self._active.values())

    @property
    def injected(self) -> dict[FaultKind, int]:
        """Return how often each kind struck since the start, every kind named."""
        return {kind: self._injected[kind] for kind in FaultKind}

    @property
    def staged(self) -> dict[StagedFault, int]:
        """Return the same of the staged faults."""
        return {kind: self._injected[kind] for kind in StagedFault}

    def switch_on(self, fault: Fault) -> None:
        """Switch a fault on, in place of an earlier one of its kind."""
        self._active[fault.kind] = fault
        self._since_on[fault.kind] = 0

    def switch_off(self, kind: AnyFault) -> None:
        """Switch a fault off; nothing happens when it is off."""
        self._active.pop(kind, None)

    def switch_off_all(self) -> None:
        """Switch every fault off; the counts stay."""
        self._active.clear()

    def get(self, kind: AnyFault) -> Fault | None:
        """Return the fault if it is on, used up or not."""
        return self._active.get(kind)

    def find(self, kind: AnyFault, *, account_id: str | None = None) -> Fault | None:
        """Return the fault if it is on for the account and not used up; counts nothing."""
        fault = self._active.get(kind)
        if fault is None or not fault.covers(account_id):
            return None
        is_used_up = fault.limit is not None and self._since_on[kind] >= fault.limit
        return None if is_used_up else fault

    def strike(self, kind: AnyFault, *, account_id: str | None = None) -> Fault | None:
        """Decide whether the fault strikes now; if so count it and return its parameters."""
        fault = self.find(kind, account_id=account_id)
        if fault is None or (
            fault.probability < 1.0 and self._random.random() >= fault.probability
        ):
            return None
        self.count(kind)
        return fault

    def count(self, kind: AnyFault) -> None:
        """Count an injection that was decided elsewhere, such as a socket cut by hand."""
        self._since_on[kind] += 1
        self._injected[kind] += 1
