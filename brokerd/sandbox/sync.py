"""The packets of one synchronization, in MetaApi's order; pure (metaapi.md 5.4, 5.5, 10)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from brokerd.sandbox.terminal import PacketFields, chunked


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a terminal holds at one moment, every record already encoded as JSON.

    Deals and history orders are those from the client's starting times on.
    """

    account_information: bytes
    specifications: Sequence[bytes]
    specifications_hash: str | None
    positions: Sequence[bytes]
    orders: Sequence[bytes]
    history_orders: Sequence[bytes]
    deals: Sequence[bytes]


def packets(
    snapshot: Snapshot, *, synchronization_id: str, client_hashes: Sequence[str]
) -> Iterator[tuple[str, PacketFields]]:
    """Yield type and fields of each packet.

    A client that already holds our specifications, which it shows by their hash, is told which of
    its hashes it was and is not sent them again. Positions and orders are always sent whole.
    """
    sync = {"synchronizationId": synchronization_id}
    started: dict[str, object] = dict(sync)
    is_known = snapshot.specifications_hash in client_hashes
    if is_known:
        started["specificationsHashIndex"] = client_hashes.index(str(snapshot.specifications_hash))
    yield "synchronizationStarted", started
    if not is_known:
        for chunk in chunked(snapshot.specifications):
            yield "specifications", sync | {"specifications": chunk, "removedSymbols": []}
    yield (
        "accountInformation",
        sync | {"accountInformation": msgspec.Raw(snapshot.account_information)},
    )
    yield "positions", sync | {"positions": [msgspec.Raw(item) for item in snapshot.positions]}
    yield "orders", sync | {"orders": [msgspec.Raw(item) for item in snapshot.orders]}
    for chunk in chunked(snapshot.history_orders):
        yield "historyOrders", sync | {"historyOrders": chunk}
    yield "orderSynchronizationFinished", sync
    for chunk in chunked(snapshot.deals):
        yield "deals", sync | {"deals": chunk}
    yield "dealSynchronizationFinished", sync
