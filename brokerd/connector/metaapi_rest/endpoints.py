"""Where MetaApi's REST services are and how their addresses are spelt (metaapi.md 1.1, 7).

What a link's spec brings ends in host names and paths that the token is sent to; so region and ids
are checked here and cannot point a request elsewhere.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from brokerd.config.settings import MetaApiSettings
from brokerd.connector.ports import PAGE_LIMIT
from brokerd.domain import DealId
from brokerd.errors import InvalidRequest

DISCOVERY_PATH = "/users/current/servers/mt-client-api"
QUOTAS_PATH = "/users/current/quotas"
REGIONS_PATH = "/users/current/regions"

ACCOUNTS_PATH = "/users/current/accounts"

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:\d{1,5})?")
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MILLISECOND = timedelta(milliseconds=1)


def provisioning_url(settings: MetaApiSettings) -> str:
    """Return the base of the provisioning service, without a slash at its end."""
    url = settings.provisioning_url or f"https://mt-provisioning-api-v1.{settings.domain}"
    return url.rstrip("/")


def configured_client_url(settings: MetaApiSettings, region: str) -> str | None:
    """Return the base of the client service if configuration names one; else ask discovery."""
    url = settings.client_url
    return url and url.replace("{region}", _region(region)).rstrip("/")


def is_host(domain: str) -> bool:
    """Say whether a discovered domain is a host, perhaps with a port, and nothing else."""
    return _HOST.fullmatch(domain) is not None


def discovered_client_url(domain: str, region: str) -> str:
    """Return the base of the client service in a discovered domain."""
    return f"https://mt-client-api-v1.{_region(region)}.{domain}"


def accounts_path(*, offset: int, login: str | None, states: Sequence[str]) -> str:
    """Return the path of one page of the accounts that match; a login may match others too."""
    query: list[tuple[str, str | int]] = [("offset", offset), ("limit", PAGE_LIMIT)]
    query += [("state", state) for state in states]
    query += [] if login is None else [("query", login)]
    return f"{ACCOUNTS_PATH}?{urlencode(query)}"


def is_account_id(value: str) -> bool:
    """Say whether a text can be the id of an account."""
    return _ID.fullmatch(value) is not None


def account_path(account_id: str) -> str:
    """Return the path of an account, the same on both services."""
    return f"{ACCOUNTS_PATH}/{_id(account_id, 'account id')}"


def account_information_path(account_id: str) -> str:
    """Return the path of the account information; the terminal is asked, not a cache."""
    return f"{account_path(account_id)}/account-information?refreshTerminalState=true"


def credits_path(account_id: str) -> str:
    """Return the path of the credits in the way of an account's calls."""
    return f"{account_path(account_id)}/credits"


def server_time_path(account_id: str) -> str:
    """Return the path of the time at an account's broker."""
    return f"{account_path(account_id)}/server-time"


def deals_path(account_id: str, *, start: datetime, end: datetime, offset: int) -> str:
    """Return the path of one page of the deals with start <= time < end.

    MetaApi's times end at the millisecond: `start` is floored, `end` ceiled, so that a bound within
    one never cuts off a deal of that millisecond.
    """
    span = f"{_wire_time(start)}/{_wire_time(_ceil(end))}"
    page = f"offset={offset}&limit={PAGE_LIMIT}"
    return f"{account_path(account_id)}/history-deals/time/{span}?{page}"


def ticket_path(account_id: str, *, deal_id: DealId) -> str:
    """Return the path of the deals of one ticket; on MT4 that is our id without its entry."""
    ticket, _, _ = deal_id.partition(":")
    return f"{account_path(account_id)}/history-deals/ticket/{_id(ticket, 'deal id')}"


def _region(region: str) -> str:
    if not _LABEL.fullmatch(region):
        raise InvalidRequest(
            f"region {region[:64]!r} is no MetaApi region; correct the link's spec"
        )
    return region


def _id(value: str, what: str) -> str:
    if not _ID.fullmatch(value):
        raise InvalidRequest(f"{what} {value[:64]!r} cannot be one of MetaApi's; correct the spec")
    return value


def _ceil(time: datetime) -> datetime:
    beyond = timedelta(microseconds=time.microsecond % 1000)
    return time - beyond + _MILLISECOND if beyond else time


def _wire_time(time: datetime) -> str:
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
