"""Connect to one account with nothing but MetaApi's SDK and print every deal it shows.

    brokerd sandbox &                                  # prints its address and token
    METAAPI_TOKEN=… python examples/plain_sdk.py --url http://127.0.0.1:PORT --account ID

With `--url` the SDK's two addresses are replaced, and nothing else. With `--domain` not even that:
the SDK builds its own https addresses, which is how it runs against MetaApi itself, or against a
sandbox with TLS (domain `x@127.0.0.1:PORT`, and SSL_CERT_FILE naming the sandbox's CA).
Each line of output that begins with a brace is one JSON object.
"""

import argparse
import asyncio
import json
import os
from typing import Any
from urllib.parse import urlsplit

import engineio
import httpx
from metaapi_cloud_sdk import MetaApi, SynchronizationListener
from metaapi_cloud_sdk.metaapi.models import MetatraderDeal


class Printer(SynchronizationListener):
    """Prints what the SDK tells a listener about deals."""

    async def on_deal_added(self, instance_index: str, deal: MetatraderDeal) -> None:
        """Print one deal, historical or live."""
        say(deal=deal["id"], type=deal["type"], profit=deal["profit"], instance=instance_index)

    async def on_deals_synchronized(self, instance_index: str, synchronization_id: str) -> None:
        """Print that history is complete."""
        say(deals_synchronized=synchronization_id, instance=instance_index)


def say(**fields: object) -> None:
    """Print one JSON object on a line of its own."""
    print(json.dumps(fields), flush=True)


def point_at(api: MetaApi, url: str) -> None:
    """Send everything the SDK does to one plain-http address (it has no public way)."""
    websocket_client = api._metaapi_websocket_client
    websocket_client.set_url(url)
    parts = urlsplit(url)

    async def request(options: dict[str, Any]) -> httpx.Response:
        address = httpx.URL(options["url"]).copy_with(
            scheme=parts.scheme, host=parts.hostname, port=parts.port
        )
        async with httpx.AsyncClient() as client:
            return await client.request(
                options.get("method", "GET"),
                address,
                params=options.get("params"),
                headers=options.get("headers"),
                json=options.get("body"),
            )

    # provisioning, client REST and discovery share this client
    websocket_client._domain_client._http_client._make_request = request


async def watch(arguments: argparse.Namespace) -> None:
    """Connect, wait until synchronized, then stay."""
    options = {"domain": arguments.domain} if arguments.domain else {}
    api = MetaApi(os.environ["METAAPI_TOKEN"], options)
    if arguments.url:
        point_at(api, arguments.url)
    account = await api.metatrader_account_api.get_account(arguments.account)
    connection = account.get_streaming_connection()
    connection.add_synchronization_listener(Printer())
    await connection.connect()
    await connection.wait_synchronized({"timeoutInSeconds": arguments.timeout})
    say(
        synchronized=connection.synchronized,
        balance=connection.terminal_state.account_information["balance"],
        specifications=len(connection.terminal_state.specifications),
        positions=len(connection.terminal_state.positions),
        deals=len(connection.history_storage.deals),
    )
    await asyncio.sleep(arguments.seconds)
    say(connected=connection.terminal_state.connected, deals=len(connection.history_storage.deals))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--url", help="plain-http address of a sandbox")
    target.add_argument("--domain", help="MetaApi's domain, or x@127.0.0.1:PORT")
    parser.add_argument("--account", required=True, help="MetaApi account id")
    parser.add_argument("--seconds", type=float, default=60, help="how long to stay connected")
    parser.add_argument("--timeout", type=float, default=60, help="longest wait for the sync")
    engineio.asyncio_client.async_signal_handler_set = True  # or Ctrl-C hangs (sdk.md B12)
    with asyncio.Runner() as runner:
        runner.run(watch(parser.parse_args()))
        os._exit(0)  # the SDK's tasks resist cancellation for up to 25 s (sdk.md B11)


if __name__ == "__main__":
    main()
