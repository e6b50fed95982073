"""The limits of the services (metaapi.md 3): what they are. All are off until one is set.

Their real values are only partly known; the ones here are those the dossier found most likely.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """So many credits, refilled evenly over so many seconds."""

    seconds: int
    credits: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditLimits:
    """CPU credits; `per_user` is multiplied by the number of the user's deployed accounts.

    A server is what a `client-id` header chooses.
    """

    per_user: tuple[Window, ...] = (
        Window(seconds=1, credits=1_000),
        Window(seconds=60, credits=6_000),
        Window(seconds=3_600, credits=18_000),
        Window(seconds=21_600, credits=43_200),
    )
    per_server: tuple[Window, ...] = (Window(seconds=1, credits=2_000),)
    per_account: tuple[Window, ...] = (Window(seconds=10, credits=5_000),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRate:
    """How many provisioning requests a user may send in any span of so many minutes."""

    requests: int = 25
    minutes: float = 1.0
    per_deployed_account: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionLimits:
    """How many terminals may be listened to at once; one that is None is off.

    `per_deployed_account` times the deployed accounts is the user's quota. A client id chooses one
    of `servers`. A cut socket's subscriptions count for `stale_seconds` more.
    """

    per_deployed_account: int | None = 25
    per_server: int | None = None
    per_user_per_server: int | None = 300
    servers: int = 1
    stale_seconds: float = 0.0
    retry_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SynchronizationLimit:
    """How many synchronizations of a user may run at once, and how long each is taken to run."""

    concurrent: int = 15
    seconds: float = 1.0


@dataclass(slots=True, kw_only=True)
class Limits:
    """What is limited now; the control may change it."""

    credits: CreditLimits | None = None
    provisioning: RequestRate | None = None
    subscriptions: SubscriptionLimits | None = None
    synchronizations: SynchronizationLimit | None = None
