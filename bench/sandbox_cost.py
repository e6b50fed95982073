"""What the sandbox costs: CPU of its process while many accounts trade and stream.

    python bench/sandbox_cost.py [--accounts 500] [--seconds 30] [--quotes SECONDS]

The clients live in a process of their own and are as cheap as they can be: ten sockets, a hundred
accounts each, both instances subscribed as the SDK does it, every packet counted and thrown away.
"""

import argparse
import asyncio
import json
import resource
import sys

import aiohttp

from brokerd.sandbox.habits import Past
from brokerd.sandbox.server import DEFAULT_TOKEN, SandboxSettings, running_sandbox
from brokerd.sandbox.stream import StreamSettings

ACCOUNTS_PER_SOCKET = 100
PING_SECONDS = 25


async def follow(url: str, account_ids: list[str], *, instance: int) -> int:
    """Subscribe and synchronize accounts over one socket, then count packets until cut."""
    packets = 0
    address = f"{url}/ws/?auth-token={DEFAULT_TOKEN}&EIO=3&transport=websocket"
    async with aiohttp.ClientSession() as http, http.ws_connect(address) as websocket:
        for account_id in account_ids:
            for kind in ("subscribe", "synchronize")[: 2 - instance]:
                body = {"type": kind, "accountId": account_id, "requestId": f"{kind}-{account_id}"}
                body |= {"instanceIndex": instance, "sessionId": "s" * 32}
                await websocket.send_str("42" + json.dumps(["request", body]))
        async with asyncio.TaskGroup() as group:
            pings = group.create_task(ping(websocket))
            async for _ in websocket:
                packets += 1
            pings.cancel()
    return packets


async def ping(websocket: aiohttp.ClientWebSocketResponse) -> None:
    """Keep the socket alive."""
    while True:
        await asyncio.sleep(PING_SECONDS)
        await websocket.send_str("2")


async def run_clients(url: str, account_ids: list[str]) -> None:
    """Follow every account on both instances; report the packets when all sockets were cut."""
    step = ACCOUNTS_PER_SOCKET
    groups = [account_ids[start : start + step] for start in range(0, len(account_ids), step)]
    counts = await asyncio.gather(
        *(follow(url, group, instance=instance) for group in groups for instance in (0, 1))
    )
    print(sum(counts))


def cpu_seconds() -> float:
    """Return the CPU time of this process alone."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(arguments: argparse.Namespace) -> dict[str, float | int]:
    """Run the sandbox here and the clients elsewhere; return what the sandbox used."""
    settings = SandboxSettings(
        accounts=arguments.accounts,
        past=Past(deals=50),
        deals_per_account_minute=1.0,
        stream=StreamSettings(quote_seconds=arguments.quotes),
    )
    loop = asyncio.get_running_loop()
    async with running_sandbox(settings) as sandbox:
        command = (sys.executable, __file__, "--clients", sandbox.url)
        clients = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert clients.stdin is not None
        clients.stdin.write("\n".join(sandbox.broker.accounts).encode())
        clients.stdin.close()
        before = cpu_seconds()
        streams = 2 * arguments.accounts
        while len(sandbox.stream.registry) < streams:  # noqa: ASYNC110  # no event to wait for
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        sync_cpu = cpu_seconds() - before
        deals = sum(account.deal_count for account in sandbox.broker.accounts.values())
        started, cpu = loop.time(), cpu_seconds()
        await asyncio.sleep(arguments.seconds)
        used, elapsed = cpu_seconds() - cpu, loop.time() - started
        made = sum(account.deal_count for account in sandbox.broker.accounts.values()) - deals
        sandbox.drop_sockets()
        output, _ = await clients.communicate()
    return {
        "accounts": arguments.accounts,
        "seconds": round(elapsed, 1),
        "deals": made,
        "deals_per_account_minute": round(made / arguments.accounts / elapsed * 60, 2),
        "packets": int(output),
        "sync_cpu_ms_per_account": round(sync_cpu / arguments.accounts * 1000, 2),
        "cpu_share_of_a_core": round(used / elapsed, 4),
        "max_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def main() -> None:
    """Measure and print one JSON object; exit 1 when it is half a core or more."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--accounts", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--quotes", type=float, default=None, help="send quotes this often")
    parser.add_argument("--clients", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.clients:
        asyncio.run(run_clients(arguments.clients, sys.stdin.read().split()))
        return
    result = asyncio.run(measure(arguments))
    print(json.dumps(result))
    sys.exit(result["cpu_share_of_a_core"] >= 0.5)  # noqa: PLR2004  # the promise


if __name__ == "__main__":
    main()
