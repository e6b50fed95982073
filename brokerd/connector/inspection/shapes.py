"""The fields of MetaApi's answers as the dossier knows them, and what an answer has otherwise."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The fields that every record of a kind has, and those that it may have."""

    name: str
    required: frozenset[str]
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What records have otherwise: fields that are missing in one of them, and unknown ones."""

    records: int
    missing: frozenset[str]
    unknown: frozenset[str]

    @property
    def is_as_known(self) -> bool:
        """Say whether there is nothing to tell."""
        return not (self.missing or self.unknown)

    def __str__(self) -> str:
        """Tell it in a few words."""
        parts = [f"{self.records} read"]
        if self.missing:
            parts.append(f"without {', '.join(sorted(self.missing))}")
        if self.unknown:
            parts.append(f"unknown: {', '.join(sorted(self.unknown))}")
        return "; ".join(parts)


def compare(found: object, shape: Shape) -> Comparison | None:
    """Compare a record, or a list of them; None when it is neither."""
    records = _records(found)
    if records is None:
        return None
    names = [frozenset(record) for record in records]
    return Comparison(
        records=len(names),
        missing=frozenset().union(*(shape.required - each for each in names)),
        unknown=frozenset().union(*(each - shape.required - shape.optional for each in names)),
    )


def _records(found: object) -> list[Mapping[str, object]] | None:
    if isinstance(found, Mapping):
        return [found]
    if isinstance(found, list) and all(isinstance(each, Mapping) for each in found):
        return found
    return None


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


def has_keys(found: object, keys: Iterable[str]) -> bool:
    """Say whether something is an object that has all these members."""
    return isinstance(found, Mapping) and set(keys) <= set(found)


# metaapi.md 1.1, 2.1, 2.4, 3.2, 6.1, 6.4, 6.7
DISCOVERY = Shape(name="discovery", required=_words("domain"), optional=_words("url hostname"))
QUOTA = Shape(
    name="quota",
    required=_words("region maxAccounts maxDeployedG2Accounts"),
    optional=_words(
        "maxProvisioningProfiles maxDeployedG1Accounts maxDeployedCopyFactoryAccounts",
        "maxDedicatedIpv4 maxDedicatedIpv6",
    ),
)
ACCOUNT = Shape(
    name="account",
    required=_words("_id state connectionStatus region reliability type server login version"),
    optional=_words(
        "name magic provisioningProfileId manualTrades quoteStreamingIntervalInSeconds tags",
        "metadata baseCurrency copyFactoryRoles resourceSlots copyFactoryResourceSlots hash",
        "primaryReplica primaryAccountId userId createdAt accountReplicas connections accessToken",
        "metastatsApiEnabled riskManagementApiEnabled allocateDedicatedIp application platform",
        "slippage symbol extensions copyFactoryRoles applications stateChangedAt",
    ),
)
INFORMATION = Shape(
    name="account information",
    required=_words(
        "platform broker currency server balance equity margin freeMargin leverage name login",
        "credit tradeAllowed type",
    ),
    optional=_words(
        "marginLevel marginMode investorMode accountCurrencyExchangeRate currencyDigits"
    ),
)
DEAL = Shape(
    name="deal",
    required=_words("id platform type time brokerTime profit"),
    optional=_words(
        "entryType symbol magic volume price commission swap positionId orderId comment",
        "brokerComment clientId reason accountCurrencyExchangeRate stopLoss takeProfit",
    ),
)
SERVER_TIME = Shape(
    name="server time",
    required=_words("time brokerTime"),
    optional=_words("lastQuoteTime lastQuoteBrokerTime"),
)
