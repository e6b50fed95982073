"""What MetaApi says of its own limits, over REST."""

from collections.abc import Sequence

from brokerd.connector.governor.ports import Quota, Usage
from brokerd.connector.governor.quotas import quotas_of, usages_of
from brokerd.connector.inspection.ports import AccountQuestion, RawReader, TokenQuestion
from brokerd.domain import MetaApiRef


class MetaApiQuotas:
    """`QuotaReader` over MetaApi's answers as they come."""

    def __init__(self, raw: RawReader) -> None:
        self._raw = raw

    async def quotas(self, token: str) -> Sequence[Quota]:
        """Read what a token's user may have, by region."""
        return quotas_of(await self._raw.of_token(TokenQuestion.QUOTAS, token))

    async def credits(self, remote: MetaApiRef) -> Sequence[Usage]:
        """Read the credits in the way of calls for an account."""
        return usages_of(await self._raw.of_account(AccountQuestion.CREDITS, remote))
