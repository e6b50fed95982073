"""What a client may ask over its socket, and the form of the answers (metaapi.md 5.2, 5.3)."""

from datetime import datetime, timedelta

import msgspec

from brokerd.sandbox import eio_frames as frames
from brokerd.sandbox.refusals import Hint


class Request(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One `request` event; fields that its type does not know stay at their defaults."""

    type: str
    request_id: str
    account_id: str
    instance_index: int | None = None
    session_id: str = ""
    application: str = "MetaApi"
    starting_history_order_time: datetime | None = None
    starting_deal_time: datetime | None = None
    specifications_hashes: list[str] = []
    ticket: str = ""
    position_id: str = ""
    order_id: str = ""
    symbol: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    offset: int = 0
    limit: int = 1000

    @property
    def instance(self) -> int:
        """Return the instance meant; requests of RPC connections name none."""
        return self.instance_index or 0


class RequestRefused(Exception):
    """A request is answered by a `processingError`; `error` is MetaApi's class name for it."""

    def __init__(
        self,
        error: str,
        message: str,
        *,
        numeric_code: int | None = None,
        hint: Hint | None = None,
    ) -> None:
        super().__init__(message)
        self.error = error
        self.numeric_code = numeric_code
        self.hint = hint


def not_connected(account_id: str) -> RequestRefused:
    """Return what MetaApi says of a terminal that is not up, whatever the reason (4.3)."""
    return RequestRefused(
        "TimeoutError",
        f"It seems like the account {account_id} is not connected to broker yet or SDK settings "
        "you use does not match the account region",
    )


def response(request: Request, fields: dict[str, object]) -> bytes:
    """Encode the answer to a request."""
    body = {"type": "response", "accountId": request.account_id, "requestId": request.request_id}
    return frames.encode_event("response", body | fields)


def refusal(request: Request, refused: RequestRefused, *, offset: timedelta) -> bytes:
    """Encode the refusal of a request; it must be an object, never a string.

    A hint in it is by a clock that is `offset` ahead of ours.
    """
    body: dict[str, object] = {
        "id": 1,
        "requestId": request.request_id,
        "accountId": request.account_id,
        "error": refused.error,
        "message": str(refused),
    }
    if refused.numeric_code is not None:
        body |= {"numericCode": refused.numeric_code, "stringCode": "TRADE_RETCODE_TRADE_DISABLED"}
    if refused.hint is not None:
        body["metadata"] = refused.hint.fields(offset)
    return frames.encode_event("processingError", body)
