"""What a look at MetaApi needs: its answers as they come."""

from datetime import datetime
from enum import StrEnum
from typing import Protocol

from brokerd.domain import MetaApiRef


class TokenQuestion(StrEnum):
    """What is asked for a token."""

    DISCOVERY = "discovery"
    REGIONS = "regions"
    QUOTAS = "quotas"
    ACCOUNTS = "accounts"


class AccountQuestion(StrEnum):
    """What is asked for an account."""

    RECORD = "account"
    INFORMATION = "account_information"
    SERVER_TIME = "server_time"
    CREDITS = "credits"


class RawReader(Protocol):
    """MetaApi's answers as decoded JSON. Every method raises `Transient` and `Rejected`."""

    async def of_token(self, question: TokenQuestion, token: str) -> object:
        """Ask the provisioning service."""

    async def of_account(self, question: AccountQuestion, remote: MetaApiRef) -> object:
        """Ask for an account."""

    async def deals(self, remote: MetaApiRef, *, start: datetime, end: datetime) -> object:
        """Read the first page of a span of history."""
