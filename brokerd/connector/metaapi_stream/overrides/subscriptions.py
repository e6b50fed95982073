"""Overrides of how an account subscribes, synchronizes, is refused, and leaves."""
# ruff: noqa: SLF001  # the SDK has no public way to any of this; sdk.py checks the names

from collections.abc import Awaitable, Callable, Mapping, Sequence

from metaapi_cloud_sdk.clients.error_handler import UnauthorizedException
from metaapi_cloud_sdk.clients.metaapi.metaapi_websocket_client import MetaApiWebsocketClient
from metaapi_cloud_sdk.metaapi.terminal_state import TerminalState

from brokerd.connector.metaapi_stream.overrides.replacing import replace

UNSUBSCRIBE_SECONDS = 3.0
"""How long one of the two attempts to say farewell may take."""


def subscribe_only(ws: MetaApiWebsocketClient, is_served: Callable[[str, int], bool]) -> None:
    """A1, B34: an account gets the instances it has, and none once it leaves.

    The SDK subscribes a second terminal that a regular account does not have. And it asks in a task
    of its own, which begins even if the account was closed before, and then never ends.
    """
    manager = ws._subscription_manager
    subscribe: Callable[..., Awaitable[None]] = manager.schedule_subscribe
    for instance_number in (0, 1):  # the SDK takes both tables for granted
        ws._socket_instances_by_accounts.setdefault(instance_number, {})

    async def schedule_subscribe(account_id: str, instance_number: int = 0, **how: object) -> None:
        if is_served(account_id, instance_number):
            await subscribe(account_id, instance_number, **how)

    replace(manager, "schedule_subscribe", schedule_subscribe)


def keep_other_subscriptions(ws: MetaApiWebsocketClient) -> None:
    """A19: a socket that is open again ends only those subscriptions that were under way on it.

    The SDK tells sockets by a number, with which each region and instance begins anew: it also ends
    what is under way on the others of that number. Nobody takes that up before an account that
    was heard once has been silent for a minute.
    """
    manager = ws._subscription_manager
    resubscribe: Callable[[int, int, list[str]], object] = manager.on_reconnected

    def on_reconnected(instance_number: int, index: int, account_ids: list[str]) -> None:
        own = {f"{account_id}:{instance_number}" for account_id in account_ids}
        everyones = manager._subscriptions
        manager._subscriptions = {name: each for name, each in everyones.items() if name in own}
        try:
            resubscribe(instance_number, index, account_ids)  # waits for nothing
        finally:
            manager._subscriptions = everyones

    replace(manager, "on_reconnected", on_reconnected)


def unsubscribe_briefly(ws: MetaApiWebsocketClient) -> None:
    """B4, B5: leaving takes seconds when the server is mute, and opens no socket to say farewell.

    The server forgets a client whose socket is gone by itself.
    """
    manager = ws._subscription_manager

    async def unsubscribe(account_id: str, instance_number: int) -> None:
        manager.cancel_account(account_id)
        manager._subscription_state.pop(account_id, None)
        index = ws._socket_instances_by_accounts[instance_number].get(account_id)
        region = ws.get_account_region(account_id)
        if index is not None and ws.connected(instance_number, index, region):
            request = {"type": "unsubscribe", "instanceIndex": instance_number}
            answer: Awaitable[object] = ws.rpc_request(account_id, request, UNSUBSCRIBE_SECONDS)
            await answer

    replace(manager, "unsubscribe", unsubscribe)


def tell_refusals(ws: MetaApiWebsocketClient, refuse: Callable[[], None]) -> None:
    """B10: that the token is refused is told, and nothing is closed behind the sessions' back.

    The SDK makes a coroutine that would close the client, awaits it nowhere, and subscribes on.
    """
    convert = ws._convert_error

    def convert_error(error: Mapping[str, object]) -> Exception:
        if error["error"] != "UnauthorizedError":
            converted: Exception = convert(error)
            return converted
        refuse()
        return UnauthorizedException(str(error["message"]))

    replace(ws, "_convert_error", convert_error)


def tell_subscription_limit(ws: MetaApiWebsocketClient, tell: Callable[[int], None]) -> None:
    """Tell how many accounts the user may stream: MetaApi says so only when it refuses one.

    The SDK then locks its sockets as before.
    """
    lock: Callable[[int, int, str, dict[str, object]], Awaitable[None]] = ws.lock_socket_instance

    async def lock_socket_instance(
        instance_number: int, index: int, region: str, metadata: dict[str, object]
    ) -> None:
        allowed = metadata.get("maxAccountsPerUser")
        if isinstance(allowed, int):
            tell(allowed)
        await lock(instance_number, index, region, metadata)

    replace(ws, "lock_socket_instance", lock_socket_instance)


def refresh_no_accounts(ws: MetaApiWebsocketClient) -> None:
    """B16, B22: an account that is not found has no task that asks for its replicas hours later.

    There are none, and what to do about the account is the link's to decide.
    """

    def refresh_account(_account_id: str) -> None:
        return

    replace(ws._subscription_manager, "refresh_account", refresh_account)


def refresh_no_quotes(ws: MetaApiWebsocketClient) -> None:
    """A11: no request about quotes, whose answer an account's events would wait for.

    It keeps subscriptions to quotes from expiring, as the SDK says, and we have none. The SDK
    sends it at each synchronization, a third of all we say then, and every five minutes.
    """

    async def refresh_market_data_subscriptions(
        _account_id: str, _instance_number: int, _quotes: list[dict[str, object]]
    ) -> None:
        return

    replace(ws, "refresh_market_data_subscriptions", refresh_market_data_subscriptions)


def offer_hashes(state: TerminalState, hashes: Callable[[], Sequence[str]]) -> None:
    """A14: a synchronization offers the hashes our canaries know; see canary.py.

    The SDK offers those of its terminal states, and there are none (A9).
    """

    def get_hashes() -> dict[str, list[str]]:
        return {
            "specificationsHashes": list(hashes()),
            "positionsHashes": [],
            "ordersHashes": [],
        }

    replace(state, "get_hashes", get_hashes)


def give_turns_back(ws: MetaApiWebsocketClient, account_id: str) -> None:
    """B33: an account that left neither holds a turn to synchronize nor waits for one.

    A socket lets a tenth of its accounts synchronize at a time. The SDK frees the turn of one that
    left after 20 s, and then gives it to the next that has left: of few links none gets on.
    """
    for by_number in ws._socket_instances.values():
        for instances in by_number.values():
            for instance in instances:
                throttler = instance["synchronizationThrottler"]
                for sync, of in list(throttler._accounts_by_synchronization_ids.items()):
                    if of["accountId"] == account_id:
                        throttler.remove_synchronization_id(sync)
