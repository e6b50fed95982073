"""What a call costs and what MetaApi allows, as configured (metaapi.md 3.2)."""

from collections.abc import Sequence
from math import ceil
from typing import assert_never

from brokerd.config.settings import GovernorSettings
from brokerd.connector.governor.buckets import Limit
from brokerd.connector.governor.ports import Call, Service
from brokerd.connector.governor.scopes import ScopeKind
from brokerd.connector.ports import PAGE_LIMIT

_HISTORY = frozenset({"deals"})
"""Calls that cost by what they return."""
_SECOND, _MINUTE, _HOUR = 1.0, 60.0, 3_600.0


def highest_cost(call: Call, *, settings: GovernorSettings) -> int:
    """Return what a call may cost at most; so much is set aside before it is sent."""
    return actual_cost(call, settings=settings, items=PAGE_LIMIT)


def actual_cost(call: Call, *, settings: GovernorSettings, items: int) -> int:
    """Return what a call cost that returned so many items; to provisioning, it is one request."""
    if call.service is Service.PROVISIONING:
        return 1
    if call.method in _HISTORY:
        return ceil(settings.history_credits + settings.item_credits * items)
    return settings.call_credits


def limits_of(kind: ScopeKind, *, settings: GovernorSettings, accounts: int) -> Sequence[Limit]:
    """Return what MetaApi allows a scope of that kind; a user with so many deployed accounts."""
    match kind:
        case ScopeKind.USER:
            many = max(1, accounts)
            return _kept(
                (_SECOND, settings.user_credits_per_second * many),
                (_MINUTE, settings.user_credits_per_minute * many),
                (_HOUR, settings.user_credits_per_hour * many),
                (6 * _HOUR, settings.user_credits_per_six_hours * many),
            )
        case ScopeKind.SERVER:
            return _kept((_SECOND, settings.server_credits_per_second))
        case ScopeKind.ACCOUNT:
            return _kept((10 * _SECOND, settings.account_credits_per_ten_seconds))
        case ScopeKind.PROVISIONING:
            return _kept((_MINUTE, settings.provisioning_requests_per_minute))
        case ScopeKind.SOCKETS:
            return _kept((_SECOND, settings.fleet_socket_opens_per_second))
        case _:
            assert_never(kind)


def _kept(*limits: tuple[float, int]) -> Sequence[Limit]:
    return tuple(Limit(period_seconds=period, units=units) for period, units in limits if units > 0)
