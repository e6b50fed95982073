"""MetaApi's streaming service over the truth: subscriptions, synchronizations, live updates.

Everything a client causes is done in one go, without waiting, and every change of the truth is
passed on in the moment it happens. So a synchronization shows one moment, what follows it is in
order and complete, and whatever a client misses was taken away by a fault on purpose.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from brokerd.sandbox import answers, sync, terminals, wire
from brokerd.sandbox.beats import Beats
from brokerd.sandbox.credits import COSTS, Call
from brokerd.sandbox.delivery import Delivery
from brokerd.sandbox.eio_socket import Socket
from brokerd.sandbox.facts import ChangeKind, ConnectionStatus, ProvisioningState
from brokerd.sandbox.faults import FaultKind, StagedFault
from brokerd.sandbox.refusals import Refused
from brokerd.sandbox.registry import Registry
from brokerd.sandbox.requests import (
    Request,
    RequestRefused,
    not_connected,
    refusal,
    response,
)
from brokerd.sandbox.state import MetaApiState
from brokerd.sandbox.stream_limits import StreamLimits
from brokerd.sandbox.terminal import Stream
from brokerd.sandbox.truth import Change, TruthAccount

_MAX_INSTANCES = 2

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """How often terminals speak unasked; `quote_seconds` None sends no quotes."""

    status_seconds: float = 5.0
    quote_seconds: float | None = None


Burst = Callable[[TruthAccount, int], None]
"""Makes that many deals on the account, now."""


class StreamService:
    """Serves the sockets; `tick` is to be called several times a second.

    `opened` counts the streams that each account's clients began since the start.
    """

    def __init__(
        self,
        state: MetaApiState,
        *,
        views: terminals.Terminals,
        settings: StreamSettings,
        burst: Burst,
    ) -> None:
        self.registry = Registry()
        self.opened: Counter[str] = Counter()
        self._state = state
        self._broker = state.broker
        self._faults = state.faults
        self.limits = StreamLimits(state, registry=self.registry)
        self.views = views
        self._burst = burst
        self._delivery = Delivery(clock=self._broker.clock, faults=self._faults)
        self._beats = [Beats(period_seconds=settings.status_seconds, beat=self._send_status)]
        if settings.quote_seconds is not None:
            self._beats.append(Beats(period_seconds=settings.quote_seconds, beat=self._send_quotes))
        self._held: dict[str, list[Change]] = {}
        self._broker.listen(self.changed)

    def received(self, socket: Socket, body: msgspec.Raw) -> None:
        """Answer one request."""
        try:
            request = msgspec.json.decode(body, type=Request)
        except msgspec.MsgspecError as error:
            _log.warning("request.refused", sid=socket.sid, reason=str(error))
            return
        try:
            self._serve(socket, request)
        except RequestRefused as refused:
            offset = self._state.conditions.offset
            self._reply(socket, request, refusal(request, refused, offset=offset))

    def closed(self, socket: Socket) -> None:
        """Forget a socket's subscriptions."""
        self.limits.cut(self.registry.of_socket(socket))
        self.registry.remove_socket(socket)

    def changed(self, change: Change) -> None:
        """Pass a change of the truth on to those who listen to its account."""
        match change.kind:
            case ChangeKind.TRADED:
                self._pass_on(change)
            case ChangeKind.CONNECTION:
                self._connection_changed(change.account)
            case ChangeKind.SYMBOLS:
                self._symbols_changed(change)
            case ChangeKind.REMOVED:
                self.registry.forget(change.account.metaapi_id)
                self._held.pop(change.account.metaapi_id, None)
            case _:
                pass  # MetaApi shows no quiet change on the stream (metaapi.md 9.8)

    def tick(self) -> None:
        """Send what is due."""
        now = self._broker.clock.monotonic()
        for beats in self._beats:
            beats.tick(now)
        self._delivery.release_due()

    def _serve(self, socket: Socket, request: Request) -> None:
        account = self._account(socket, request)
        stream = self.registry.find(socket, request.account_id, request.instance)
        match request.type:
            case "subscribe":
                self._subscribe(socket, request, account)
            case "unsubscribe":
                if stream is not None:
                    self.registry.remove(stream)
                self._reply(socket, request, response(request, {}))
            case "synchronize":
                if stream is None or stream.is_idle or not account.is_reachable:
                    raise RequestRefused("NotAuthenticatedError", "The terminal is not connected")
                self.limits.require_synchronization(account.owner)
                self._reply(socket, request, response(request, {}))
                self._synchronize(stream, request, account)
            case _:
                if request.type not in answers.ACKNOWLEDGED and not account.is_reachable:
                    raise not_connected(account.metaapi_id)
                self._reply(socket, request, self._answer(socket, request, account))

    def _answer(self, socket: Socket, request: Request, account: TruthAccount) -> bytes:
        """Answer what costs credits."""
        call = Call(
            method=request.type,
            owner=account.owner,
            account_id=account.metaapi_id,
            server=socket.client_id or "",
            is_on_socket=True,
        )
        is_free = request.type in answers.ACKNOWLEDGED
        if not is_free:
            self._spend(call)
        fields = answers.answer(account, request, now=self._broker.now())
        items = fields.get("deals", fields.get("historyOrders"))
        if request.type in COSTS and isinstance(items, list):
            self._state.credits.spend_on_items(call, items=len(items))
        return response(request, fields)

    def _spend(self, call: Call) -> None:
        try:
            self._state.credits.spend(call)
        except Refused as refused:
            error = RequestRefused("TooManyRequestsError", str(refused), hint=refused.hint)
            raise error from None

    def _account(self, socket: Socket, request: Request) -> TruthAccount:
        """Return the account that is asked for, if whoever asks has it and its region is up."""
        user = self._state.users.of_token(socket.token)
        if user is None:
            raise RequestRefused("UnauthorizedError", "Authorization token is invalid")
        if user.is_forbidden:
            raise RequestRefused("ForbiddenError", "You are not allowed to access this resource")
        account = self._broker.accounts.get(request.account_id)
        if account is None or account.owner != user.name:
            raise RequestRefused("NotFoundError", f"Account {request.account_id} is not found")
        if account.spec.region in self._state.conditions.down_regions:
            raise not_connected(account.metaapi_id)
        return account

    def _reply(self, socket: Socket, request: Request, packet: bytes) -> None:
        if self._faults.strike(FaultKind.MUTE, account_id=request.account_id) is None:
            socket.send(packet)

    def _subscribe(self, socket: Socket, request: Request, account: TruthAccount) -> None:
        if request.instance not in range(_MAX_INSTANCES):
            raise RequestRefused("ValidationError", f"No instance {request.instance}")
        is_idle = request.instance >= account.replicas
        if not is_idle and not account.is_reachable:
            raise not_connected(account.metaapi_id)
        stream = self.registry.find(socket, account.metaapi_id, request.instance)
        if stream is None:
            if not is_idle:
                self.limits.require_subscription(account.owner, socket)
            stream = Stream(
                account_id=account.metaapi_id,
                owner=account.owner,
                instance_index=request.instance,
                host=f"sandbox-{'ab'[request.instance]}-1",
                socket=socket,
                is_idle=is_idle,
            )
            self.registry.add(stream)
            self.opened[account.metaapi_id] += 1
            for beats in () if is_idle else self._beats:
                beats.add(stream, now=self._broker.clock.monotonic())
        self._reply(socket, request, response(request, {}))
        if is_idle:
            return
        greeting = {"replicas": account.replicas, "sessionId": request.session_id}
        self._delivery.send(stream, stream.packet("authenticated", greeting))
        self._send_status(stream)

    def _synchronize(self, stream: Stream, request: Request, account: TruthAccount) -> None:
        snapshot = self.views.snapshot(
            account,
            orders_from=request.starting_history_order_time,
            deals_from=request.starting_deal_time,
        )
        struck = self._faults.strike(StagedFault.IGNORE_HASHES, account_id=account.metaapi_id)
        stream.next_number = 0
        for kind, fields in sync.packets(
            snapshot,
            synchronization_id=request.request_id,
            client_hashes=request.specifications_hashes if struck is None else (),
        ):
            self._delivery.send_sequenced(stream, kind, fields)
        burst = self._faults.strike(FaultKind.BURST_AFTER_SYNC, account_id=account.metaapi_id)
        if burst is not None:
            self._burst(account, burst.count)

    def _pass_on(self, change: Change) -> None:
        account = change.account
        streams = self.registry.of_account(account.metaapi_id)
        if not streams:
            return
        if not account.is_reachable:
            self._held.setdefault(account.metaapi_id, []).append(change)
            return
        fields = terminals.update(change)
        for stream in streams:
            if stream.next_number is not None:
                self._delivery.send_sequenced(stream, "update", fields)

    def _symbols_changed(self, change: Change) -> None:
        specs = change.account.server.specs
        items = [msgspec.Raw(wire.specification(specs[symbol])) for symbol in change.symbols]
        fields = {"specifications": items, "removedSymbols": []}
        for stream in self.registry.of_account(change.account.metaapi_id):
            if stream.next_number is not None:
                self._delivery.send_sequenced(stream, "specifications", fields)

    def _connection_changed(self, account: TruthAccount) -> None:
        streams = self.registry.of_account(account.metaapi_id)
        is_running = (
            account.state is ProvisioningState.DEPLOYED
            and account.connection_status is not ConnectionStatus.DISCONNECTED
        )
        for stream in streams:
            if is_running:
                self._send_status(stream)
            else:
                self._delivery.send(stream, stream.packet("disconnected", {}))
                self.registry.remove(stream)
        if account.is_reachable:
            # a terminal that finds its broker again learns what it missed, and MetaApi streams it
            for change in self._held.pop(account.metaapi_id, ()):
                self._pass_on(change)

    def _send_status(self, stream: Stream) -> None:
        account = self._broker.account(stream.account_id)
        self._delivery.send_status(stream, is_connected=account.is_reachable)

    def _send_quotes(self, stream: Stream) -> None:
        account = self._broker.account(stream.account_id)
        fields = terminals.quotes(account, now=self._broker.now())
        if fields is not None and stream.next_number is not None and account.is_reachable:
            self._delivery.send_sequenced(stream, "prices", fields)
