"""The hash of a terminal's symbol specifications, by the SDK's own function, a slice at a time.

That function spends some milliseconds on each symbol, and brokers have thousands of them. So a few
are hashed, then everything else gets its turn. Which fields are left out MetaApi tells, per
terminal generation; the list is fetched when it is needed, once an hour.
"""
# ruff: noqa: SLF001  # the SDK offers no hash without a terminal state; sdk.py checks the names

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from metaapi_cloud_sdk import MetaApi
from metaapi_cloud_sdk.clients.metaapi.metaapi_websocket_client import MetaApiWebsocketClient

from brokerd.clock import Clock
from brokerd.config.settings import Secret
from brokerd.connector.metaapi_stream.canary import Item, TerminalKind
from brokerd.errors import MalformedAnswer

LISTS_SECONDS = 3_600.0
FETCH_SECONDS = 30.0
"""The SDK looks for its server until it finds one."""
SLICE_SECONDS = 0.005
REST_SECONDS = 0.02
"""So hashing takes a fifth of the time at most."""

_GENERATIONS = {"cloud-g1": "g1", "cloud-g2": "g2"}
_INTEGER_FIELDS = ["digits"]


class _FieldLists(msgspec.Struct):
    specification: list[str]


class SpecificationHash:
    """Hashes for one client."""

    def __init__(self, api: MetaApi, *, token: Secret, clock: Clock) -> None:
        self._ws = api._metaapi_websocket_client
        self._hashes = api._terminal_hash_manager
        self._token = token
        self._clock = clock
        self._lists: dict[str, tuple[float, Mapping[str, _FieldLists]]] = {}

    async def of(self, items: Sequence[Item], kind: TerminalKind) -> str:
        """Return the hash; raises `MalformedAnswer`, or what a request raises that fails."""
        ignored = await self._ignored(kind)
        total = 0
        began = self._clock.monotonic()
        for item in items:
            total ^= int(self._item_hash(item, ignored, kind.generation), 16)
            if self._clock.monotonic() - began > SLICE_SECONDS:
                await asyncio.sleep(REST_SECONDS)
                began = self._clock.monotonic()
        return f"{total:032x}"

    def _item_hash(self, item: Item, ignored: Sequence[str], generation: str) -> str:
        MetaApiWebsocketClient._convert_iso_time_to_date(self._ws, item)  # as the SDK hashes times
        kept = {name: value for name, value in item.items() if name not in ignored}
        item_hash: str = self._hashes._get_hash(kept, generation, _INTEGER_FIELDS)
        return item_hash

    async def _ignored(self, kind: TerminalKind) -> Sequence[str]:
        fetched_at, lists = self._lists.get(kind.region, (0.0, {}))
        if not lists or self._clock.monotonic() - fetched_at > LISTS_SECONDS:
            lists = await self._fetch(kind.region)
            self._lists[kind.region] = (self._clock.monotonic(), lists)
        generation = _GENERATIONS.get(kind.generation, "")
        if generation not in lists:
            raise MalformedAnswer(f"no list of fields for terminals of type {kind.generation!r}")
        return lists[generation].specification

    async def _fetch(self, region: str) -> Mapping[str, _FieldLists]:
        async with asyncio.timeout(FETCH_SECONDS):
            return await self._ask(region)

    async def _ask(self, region: str) -> Mapping[str, _FieldLists]:
        domain_client = self._ws._domain_client
        host = await domain_client.get_url("https://mt-client-api-v1", region)
        answer = await domain_client._http_client.request(
            {
                "url": f"{host}/hashing-ignored-field-lists",
                "method": "GET",
                "headers": {"auth-token": self._token.reveal()},
            }
        )
        try:
            return msgspec.convert(answer, dict[str, _FieldLists])
        except msgspec.ValidationError as error:
            raise MalformedAnswer(f"not the lists of fields that are not hashed: {error}") from None
