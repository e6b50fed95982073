"""What the SDK tells of one account, as events of ours: its only listener, and its only storage."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog
from metaapi_cloud_sdk import HistoryStorage
from metaapi_cloud_sdk.metaapi.models import MetatraderDeal, MetatraderOrder

from brokerd.clock import Clock
from brokerd.connector.metaapi_stream.buffer import EventBuffer
from brokerd.connector.ports import BrokerStatus, Connected, DealSeen, Disconnected, Synchronized
from brokerd.connector.wire import deal_from_stream
from brokerd.errors import BrokerdError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class StreamListener(HistoryStorage):
    """Turns events into ours; nothing in it waits or raises (sdk.md A2, A3, A4).

    The SDK names an instance `region:number:host`. An account of high reliability has two; the
    session is up while either is. `last_deal_time` follows only what the ledger acknowledged,
    never what passed by (A5). `has_heard` once its terminal answered.
    """

    def __init__(
        self, buffer: EventBuffer, *, synced_through: datetime, overlap_seconds: float, clock: Clock
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in the SDK
        self._buffer = buffer
        self._watermark = synced_through
        self._overlap = timedelta(seconds=overlap_seconds)
        self._clock = clock
        self._is_broker_up: dict[str, bool] = {}
        self._up: set[str] = set()
        self.has_heard = False

    def __bool__(self) -> bool:
        """Stay true: the SDK replaces a storage that is false by its own."""
        return True

    def acknowledge(self, through: datetime) -> None:
        """Let the next synchronization begin at that time, less the overlap."""
        self._watermark = max(self._watermark, through)

    def end(self, failure: BrokerdError) -> None:
        """Make the session raise."""
        self._buffer.end(failure)

    def lose_socket(self, *, region: str, instance_number: int) -> None:
        """Note that an instance's socket closed; the SDK would tell a minute later."""
        self._leave(f"{region}:{instance_number}:")

    def lose_packets(self) -> None:
        """Note that packets are missing between others."""
        self._buffer.put_gap("sequence")

    # What the SDK asks.

    async def last_deal_time(self, _instance_index: str | None = None) -> datetime:
        """Say from when deals are wanted: the acknowledged watermark less the overlap."""
        return self._watermark - self._overlap

    async def last_history_order_time(self, _instance_index: str | None = None) -> datetime:
        """Say that no order of the past is wanted."""
        return self._clock.now()

    # What the SDK tells.

    async def on_connected(self, instance_index: str, replicas: int) -> None:
        """Count an instance in; one that was in already is a new session of its terminal."""
        await super().on_connected(instance_index, replicas)
        self.has_heard = True
        number = instance_index.rpartition(":")[0] + ":"
        was_up = bool(self._up)
        is_new_session = any(index.startswith(number) for index in self._up)
        self._up = {index for index in self._up if not index.startswith(number)}
        self._up.add(instance_index)
        if is_new_session or not was_up:
            self._buffer.put(Connected())

    async def on_disconnected(self, instance_index: str) -> None:
        """Count an instance out."""
        self._leave(instance_index)

    async def on_stream_closed(self, instance_index: str) -> None:
        """Count an instance out."""
        self._leave(instance_index)

    async def on_broker_connection_status_changed(
        self,
        instance_index: str,
        connected: bool,  # noqa: FBT001  # the SDK's signature
    ) -> None:
        """Pass the heartbeat on; one instance at its broker is enough."""
        self._is_broker_up[instance_index] = connected
        self._buffer.put(BrokerStatus(is_connected=any(self._is_broker_up.values())))

    async def on_deal_added(self, _instance_index: str, deal: Mapping[str, object]) -> None:
        """Pass a deal on; one that cannot be read becomes a gap."""
        try:
            seen = DealSeen(deal=deal_from_stream(deal))
        except Exception as error:  # noqa: BLE001  # what is raised here is lost in the SDK (A4)
            log.warning(
                "stream.deal_refused", metaapi_account_id=self._account_id, problem=str(error)
            )
            self._buffer.put_gap("unreadable_deal")
            return
        self._buffer.put(seen)

    async def on_deals_synchronized(self, instance_index: str, synchronization_id: str) -> None:
        """Note the end of a synchronization."""
        await super().on_deals_synchronized(instance_index, synchronization_id)
        self._buffer.put(Synchronized())

    async def on_history_order_added(self, instance_index: str, history_order: object) -> None:
        """Ignore orders; the ledger is made of deals."""

    def _leave(self, prefix: str) -> None:
        left = {index for index in self._up if index.startswith(prefix)}
        if not left:
            return
        self._up -= left
        for index in left:
            self._is_broker_up.pop(index, None)
        if not self._up:
            self._buffer.put(Disconnected())

    # What a storage must have and the SDK never asks for (sdk.md 3).

    async def clear(self) -> None:
        """Forget nothing: nothing is kept."""

    @property
    def deals(self) -> list[MetatraderDeal]:
        """Return none."""
        return []

    @property
    def history_orders(self) -> list[MetatraderOrder]:
        """Return none."""
        return []

    def get_deals_by_ticket(self, id: str) -> list[MetatraderDeal]:  # noqa: A002, ARG002  # the SDK's
        """Return none."""
        return []

    def get_deals_by_position(self, position_id: str) -> list[MetatraderDeal]:  # noqa: ARG002  # the SDK's
        """Return none."""
        return []

    def get_deals_by_time_range(
        self,
        start_time: datetime,  # noqa: ARG002  # the SDK's signature
        end_time: datetime,  # noqa: ARG002  # likewise
    ) -> list[MetatraderDeal]:
        """Return none."""
        return []

    def get_history_orders_by_ticket(self, id: str) -> list[MetatraderOrder]:  # noqa: A002, ARG002  # ditto
        """Return none."""
        return []

    def get_history_orders_by_position(self, position_id: str) -> list[MetatraderOrder]:  # noqa: ARG002
        """Return none."""
        return []

    def get_history_orders_by_time_range(
        self,
        start_time: datetime,  # noqa: ARG002  # the SDK's signature
        end_time: datetime,  # noqa: ARG002  # likewise
    ) -> list[MetatraderOrder]:
        """Return none."""
        return []
