"""Overrides of the requests the SDK makes beside its sockets."""
# ruff: noqa: SLF001  # the SDK has no public way to any of this; sdk.py checks the names

import asyncio
from collections.abc import Callable, Coroutine
from http import HTTPStatus

import httpx
from metaapi_cloud_sdk.clients.domain_client import DomainClient
from metaapi_cloud_sdk.clients.http_client import HttpClient, RequestOptions
from metaapi_cloud_sdk.clients.metaapi.metaapi_websocket_client import MetaApiWebsocketClient
from metaapi_cloud_sdk.metaapi.terminal_hash_manager import TerminalHashManager

from brokerd.connector.metaapi_stream.calls import Calls
from brokerd.connector.metaapi_stream.overrides.replacing import replace


def shield_domain_settings(domain_client: DomainClient, calls: Calls) -> None:
    """A12: who is cancelled while looking for the server leaves no dead future behind."""
    update: Callable[[], Coroutine[object, object, None]] = domain_client._update_domain

    async def update_domain() -> None:
        await asyncio.shield(calls.start(update(), name="sdk-domain-settings"))

    replace(domain_client, "_update_domain", update_domain)


def fetch_no_hashing_lists(hashes: TerminalHashManager) -> None:
    """A12, B19: no REST call stands before a synchronization; nothing is hashed without a state."""

    async def refresh_ignored_field_lists(_region: str) -> None:
        return

    replace(hashes, "refresh_ignored_field_lists", refresh_ignored_field_lists)


def measure_no_latency(ws: MetaApiWebsocketClient) -> None:
    """B18: no socket is opened to measure a region that nobody chose by latency."""
    latency = ws._latency_service

    async def refresh_latency(region: str) -> None:
        latency._latency_cache[region] = 0.0

    replace(latency, "_refresh_latency", refresh_latency)


def request_over(
    http_client: HttpClient, http: httpx.AsyncClient, route: Callable[[str], str]
) -> None:
    """B21: requests go over one pooled client, not over a new one with new TLS state each.

    `route` turns the SDK's URL into the configured one.
    """

    async def make_request(options: RequestOptions) -> httpx.Response:
        return await http.request(
            options.get("method") or "GET",
            route(options["url"]),
            params=options.get("params"),
            headers=options.get("headers"),
            json=options.get("body"),
        )

    replace(http_client, "_make_request", make_request)


def ask_once(http_client: HttpClient, refuse: Callable[[], None]) -> None:
    """B10, B20: a request is made once; its callers pause longer after each failure by themselves.

    The SDK repeats a 429 whose time is past without a pause, until it recurses to death, fails with
    a `KeyError` where the answer has no such time, and takes what is no JSON for the answer.
    """

    async def request(options: RequestOptions, *_: object) -> object:
        response = await http_client._make_request(options)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            refuse()
        response.raise_for_status()
        return response.json()

    replace(http_client, "request", request)
