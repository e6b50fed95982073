"""How much of the stream a user may have at once (metaapi.md 3.3, 3.4).

A subscription is one terminal listened to on one socket; the second instance of an account that has
one terminal is none. Other programs' subscriptions, and for a while those of sockets that were cut,
count too.
"""

from collections import defaultdict
from datetime import timedelta
from zlib import crc32

from brokerd.sandbox.eio_socket import Socket
from brokerd.sandbox.limits import SubscriptionLimits
from brokerd.sandbox.refusals import Hint
from brokerd.sandbox.registry import Registry
from brokerd.sandbox.requests import RequestRefused
from brokerd.sandbox.state import MetaApiState
from brokerd.sandbox.terminal import Stream

_PREFIX = "LIMIT_ACCOUNT_SUBSCRIPTIONS_PER_"


class StreamLimits:
    """Counts, and refuses what would be too much."""

    def __init__(self, state: MetaApiState, *, registry: Registry) -> None:
        self._state = state
        self._registry = registry
        self._stale: list[tuple[str, float]] = []
        self._synchronizing: defaultdict[str, list[float]] = defaultdict(list)

    def require_subscription(self, owner: str, socket: Socket) -> None:
        """Raise `RequestRefused` when the user may not have one more on this socket."""
        limits = self._state.limits.subscriptions
        if limits is None:
            return
        mine = self._registry.of_owner(owner)
        self._require_user_quota(owner, limits, used=self._used(owner, mine))
        server = _server_of(socket, limits)
        everyone = (
            stream
            for user in self._state.users.all
            for stream in self._registry.of_owner(user.name)
        )
        on_server = sum(_server_of(stream.socket, limits) == server for stream in everyone)
        if limits.per_server is not None and on_server >= limits.per_server:
            message = "The server is out of capacity. Please connect with another client-id."
            metadata: dict[str, object] = {"changeClientIdHeader": True}
            raise self._refusal(message, limits, type_=f"{_PREFIX}SERVER", metadata=metadata)
        used = sum(_server_of(stream.socket, limits) == server for stream in mine)
        most = limits.per_user_per_server
        if most is not None and used >= most:
            message = (
                f"One user can connect to one server no more than {most} accounts."
                f" Current number of connected accounts {used}."
            )
            metadata = {"maxAccountsPerUserPerServer": most, "accountsCount": used}
            type_ = f"{_PREFIX}USER_PER_SERVER"
            raise self._refusal(message, limits, type_=type_, metadata=metadata)

    def require_synchronization(self, owner: str) -> None:
        """Note one more synchronization; raises `RequestRefused` when too many run."""
        limit = self._state.limits.synchronizations
        if limit is None:
            return
        now = self._state.broker.clock.monotonic()
        running = self._synchronizing[owner]
        running[:] = [end for end in running if end > now]
        if len(running) >= limit.concurrent:
            retry_at = self._state.broker.now() + timedelta(seconds=min(running) - now)
            metadata = {
                "maxConcurrentSynchronizations": limit.concurrent,
                "type": "LIMIT_CONCURRENT_SYNCHRONIZATIONS",
            }
            raise RequestRefused(
                "TooManyRequestsError",
                f"You may run no more than {limit.concurrent} synchronizations at once.",
                hint=Hint(retry_at=retry_at, metadata=metadata),
            )
        running.append(now + limit.seconds)

    def cut(self, streams: tuple[Stream, ...]) -> None:
        """Note that a socket went away with these; they may count for a while more."""
        limits = self._state.limits.subscriptions
        if limits is not None and limits.stale_seconds:
            until = self._state.broker.clock.monotonic() + limits.stale_seconds
            self._stale += [(stream.owner, until) for stream in streams if not stream.is_idle]

    def _used(self, owner: str, mine: tuple[Stream, ...]) -> int:
        now = self._state.broker.clock.monotonic()
        self._stale = [(name, until) for name, until in self._stale if until > now]
        stale = sum(name == owner for name, _ in self._stale)
        accounts = self._state.broker.accounts
        others = sum(
            len(applications)
            for account_id, applications in self._state.conditions.subscribers.items()
            if account_id in accounts and accounts[account_id].owner == owner
        )
        return len(mine) + stale + others

    def _require_user_quota(self, owner: str, limits: SubscriptionLimits, *, used: int) -> None:
        if limits.per_deployed_account is None:
            return
        most = limits.per_deployed_account * self._state.broker.deployed_count(owner)
        if used >= most:
            message = (
                f"You have used all your account subscriptions quota. You have {most} account"
                f" subscriptions available and have used {used} subscriptions. Please deploy more"
                " accounts to get more subscriptions."
            )
            metadata: dict[str, object] = {"maxAccountsPerUser": most, "accountsCount": used}
            raise self._refusal(message, limits, type_=f"{_PREFIX}USER", metadata=metadata)

    def _refusal(
        self, message: str, limits: SubscriptionLimits, *, type_: str, metadata: dict[str, object]
    ) -> RequestRefused:
        retry_at = self._state.broker.now() + timedelta(seconds=limits.retry_seconds)
        hint = Hint(retry_at=retry_at, metadata={**metadata, "type": type_})
        return RequestRefused("TooManyRequestsError", message, hint=hint)


def _server_of(socket: Socket, limits: SubscriptionLimits) -> int:
    return crc32((socket.client_id or "").encode()) % limits.servers
