"""What an event says of its subject, as JSON text in the manner of the API; pure.

`ledger.statements` writes a deal's payload in SQL, in the same form.
"""

from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from brokerd.domain import Deal, LinkStatus


def deal_payload(deal: Deal) -> str:
    """Tell a deal; money, price and volume are decimal strings."""
    return _json(
        {
            "type": deal.type,
            "entry": deal.entry,
            "symbol": deal.symbol,
            "volume": _amount(deal.volume),
            "price": _amount(deal.price),
            "time": _moment(deal.time),
            "brokerTime": deal.broker_time,
            "profit": _amount(deal.profit),
            "commission": _amount(deal.commission),
            "swap": _amount(deal.swap),
            "orderId": deal.order_id,
            "positionId": deal.position_id,
        }
    )


def link_payload(status: LinkStatus) -> str:
    """Tell the phase a link entered, and why."""
    return _json(
        {
            "phase": status.phase,
            "reason": status.reason,
            "message": status.message,
            "userAction": status.user_action,
            "since": _moment(status.since),
        }
    )


def proof_payload(status: LinkStatus) -> str:
    """Tell what the balance proof found."""
    return _json(
        {
            "detail": status.proof_detail,
            "provenAt": None if status.proven_at is None else _moment(status.proven_at),
        }
    )


def _json(fields: dict[str, str | None]) -> str:
    return msgspec.json.encode(fields).decode()


def _amount(value: Decimal | None) -> str | None:
    if value is None:
        return None
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _moment(value: datetime) -> str:
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
