"""MetaApi's SDK, as it is, in a process of its own: told what to call, line by line.

A line of input is a JSON object with `call` (a method of the account API, or of an account when
`id` is given) and `with` (its arguments). A line of output that begins with a brace answers one:
what the call returned, or the class, message, details and metadata of what it raised.
"""

import asyncio
import json
import os
import sys
from typing import Any

from metaapi_cloud_sdk import MetaApi


def shown(value: Any) -> Any:
    """Return what a call returned, as JSON can hold it."""
    if isinstance(value, list):
        return [shown(item) for item in value]
    if hasattr(value, "connection_status"):
        return {"id": value.id, "state": value.state, "connection": value.connection_status}
    return value


async def answer(api: MetaApi, order: dict[str, Any]) -> dict[str, Any]:
    """Make the call; after one on an account show the account too."""
    target = api.metatrader_account_api
    try:
        if "id" in order:
            target = await target.get_account(order["id"])
        returned = await getattr(target, order["call"])(*order["with"])
    except Exception as error:  # noqa: BLE001  # it is what is asked for
        return {
            "raised": type(error).__name__,
            "message": str(error),
            "details": getattr(error, "details", None),
            "metadata": getattr(error, "metadata", None),
        }
    return {"returned": shown(returned), "account": shown(target) if "id" in order else None}


async def serve() -> None:
    """Answer until the input ends."""
    api = MetaApi(os.environ["METAAPI_TOKEN"], {"domain": os.environ["METAAPI_DOMAIN"]})
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await answer(api, json.loads(line)), default=str), flush=True)  # noqa: T201


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(serve())
        os._exit(0)  # the SDK's tasks resist cancellation for up to 25 s (sdk.md B11)
