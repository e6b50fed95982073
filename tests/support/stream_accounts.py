"""Accounts as the stream is told of them."""

from brokerd.connector.ports import RemoteAccount
from brokerd.domain import MetaApiRef, Platform

REGION = "vint-hill"


def remote_of(account_id: str) -> MetaApiRef:
    """Return where the account is kept."""
    return MetaApiRef(token="main", account_id=account_id, region=REGION)


def account_of(
    account_id: str, *, reliability: str = "regular", region: str = REGION, server: str = "Server"
) -> RemoteAccount:
    """Return what provisioning would say of it."""
    return RemoteAccount(
        account_id=account_id,
        state="DEPLOYED",
        connection_status="CONNECTED",
        platform=Platform.MT5,
        login="1",
        server=server,
        region=region,
        reliability=reliability,
    )
