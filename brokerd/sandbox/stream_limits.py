"""How much of the stream a user may have at once (metaapi.md 3.3, 3.4).

A subscription is one terminal listened to on one socket; the second instance of an account that has
one terminal is none. Other programs' subscriptions, and for a while those of sockets that were cut,
count too.
"""

from collections import Counter, defaultdict
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
    """Counts, and refuses what would be too much; `refused` says how often, by type."""

    def __init__(self, state: MetaApiState, *, registry: Registry) -> None:
        self.refused: Counter[str] = Counter()
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
        self._require_quota(owner, limits, used=self._used(owner, mine))
        self._require_server(mine, limits, server=_server_of(socket, limits))

    def require_synchronization(self, owner: str) -> None:
        """Note one more synchronization; raises `RequestRefused` when too many run."""
        limit = self._state.limits.synchronizations
        if limit is None:
            return
        now = self._state.broker.clock.monotonic()
        running = self._synchronizing[owner]
        running[:] = [end for end in running if end > now]
        if len(running) >= limit.concurrent:
            retry_seconds = min(running, default=now + limit.seconds) - now
            raise self._refusal(
                f"You may run no more than {limit.concurrent} synchronizations at once.",
                retry_seconds,
                type_="LIMIT_CONCURRENT_SYNCHRONIZATIONS",
                metadata={"maxConcurrentSynchronizations": limit.concurrent},
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

    def _require_quota(self, owner: str, limits: SubscriptionLimits, *, used: int) -> None:
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
            raise self._refusal(
                message, limits.retry_seconds, type_=f"{_PREFIX}USER", metadata=metadata
            )

    def _require_server(
        self, mine: tuple[Stream, ...], limits: SubscriptionLimits, *, server: int
    ) -> None:
        everyone = (s for user in self._state.users.all for s in self._registry.of_owner(user.name))
        if limits.per_server is not None and (
            sum(_server_of(s.socket, limits) == server for s in everyone) >= limits.per_server
        ):
            raise self._refusal(
                "The server is out of capacity. Please connect with another client-id.",
                limits.retry_seconds,
                type_=f"{_PREFIX}SERVER",
                metadata={"changeClientIdHeader": True},
            )
        used = sum(_server_of(stream.socket, limits) == server for stream in mine)
        most = limits.per_user_per_server
        if most is not None and used >= most:
            raise self._refusal(
                f"One user can connect to one server no more than {most} accounts."
                f" Current number of connected accounts {used}.",
                limits.retry_seconds,
                type_=f"{_PREFIX}USER_PER_SERVER",
                metadata={"maxAccountsPerUserPerServer": most, "accountsCount": used},
            )

    def _refusal(
        self, message: str, retry_seconds: float, *, type_: str, metadata: dict[str, object]
    ) -> RequestRefused:
        self.refused[type_] += 1
        retry_at = self._state.broker.now() + timedelta(seconds=retry_seconds)
        hint = Hint(retry_at=retry_at, metadata={**metadata, "type": type_})
        return RequestRefused("TooManyRequestsError", message, hint=hint)


def _server_of(socket: Socket, limits: SubscriptionLimits) -> int:
    return crc32((socket.client_id or "").encode()) % limits.servers
