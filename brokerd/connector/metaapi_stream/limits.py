"""Hears what MetaApi says of its subscription limits: it says so only when it refuses one."""

from collections.abc import Awaitable, Callable

from metaapi_cloud_sdk.clients.metaapi.metaapi_websocket_client import MetaApiWebsocketClient

Lock = Callable[[int, int, str, dict[str, object]], Awaitable[None]]


def tell_subscription_limit(ws: MetaApiWebsocketClient, told: Callable[[int], None]) -> None:
    """Tell how many accounts the user may stream; the SDK then locks its sockets as before."""
    lock: Lock = ws.lock_socket_instance

    async def lock_socket_instance(
        instance_number: int, index: int, region: str, metadata: dict[str, object]
    ) -> None:
        allowed = metadata.get("maxAccountsPerUser")
        if isinstance(allowed, int):
            told(allowed)
        await lock(instance_number, index, region, metadata)

    setattr(ws, "lock_socket_instance", lock_socket_instance)  # noqa: B010  # not a method to mypy
