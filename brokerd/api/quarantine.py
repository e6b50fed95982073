"""The quarantine over HTTP: list what cannot be a deal, have it read again, discard it."""

import re
from dataclasses import dataclass

import msgspec
import structlog
from litestar import Response
from litestar.params import FromPath

from brokerd.api.bodies import DiscardBody
from brokerd.api.cursor import read_quarantine_cursor
from brokerd.api.links import ApiRequest, json_answer, next_link, read_body
from brokerd.api.ports import QuarantinedRecord, QuarantineReader
from brokerd.api.query import Query
from brokerd.api.validation import Invalid, Unreadable, Violation, check_id
from brokerd.api.views import quarantine_page, quarantined_body
from brokerd.connector.wire import deal_from_record
from brokerd.domain import LinkId, QuarantineState
from brokerd.errors import BadDeal, Conflict, MalformedAnswer, NotFound

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_PARAMETERS = ("state", "limit", "after")
_ACT = re.compile(r"([0-9]{1,18}):(replay|discard)")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRoutes:
    """The handlers of /v1/links/{id}/quarantine."""

    records: QuarantineReader

    async def page(self, link_id: FromPath[str], request: ApiRequest) -> Response[bytes]:
        """Show a link's records, oldest first; those of a deleted link too."""
        query = Query(request.scope["query_string"], known=_PARAMETERS)
        check_id(link_id, path="/v1/links/{id}")
        state = query.choice("state", [each.value for each in QuarantineState])
        after, limit = query.text("after"), query.limit()
        query.check()
        behind = 0 if after is None else read_quarantine_cursor(after)
        found = await self.records.page(
            LinkId(link_id),
            state=None if state is None else QuarantineState(state),
            after=behind,
            limit=limit,
        )
        if found is None:
            raise NotFound(f"no link {link_id} is registered")
        page = quarantine_page(found, limit=limit)
        path = f"/v1/links/{link_id}/quarantine"
        return json_answer(page, headers=next_link(query, path, page.next))

    async def act(
        self, link_id: FromPath[str], act: FromPath[str], request: ApiRequest
    ) -> Response[bytes]:
        """Replay or discard one record: `12:replay`, `12:discard`."""
        check_id(link_id, path="/v1/links/{id}")
        Query(request.scope["query_string"], known=()).check()
        asked = _ACT.fullmatch(act)
        if asked is None:
            message = "must be a record and what to do, as 12:replay or 12:discard"
            raise Invalid([Violation(path="/v1/links/{id}/quarantine/{act}", message=message)])
        known, quarantine_id = LinkId(link_id), int(asked[1])
        note = None if asked[2] == "replay" else (await _discard_body(request)).note
        record = await self.records.read(known, quarantine_id)
        if record is None:
            raise NotFound(f"link {known} has no record {quarantine_id} in quarantine")
        if note is None:
            changed = await self._replay(record)
        else:
            changed = await self._discard(record, note)
        return json_answer(
            quarantined_body(changed), headers={}, status=202 if note is None else 200
        )

    async def _replay(self, record: QuarantinedRecord) -> QuarantinedRecord:
        """Let the link's owner write the record if the code of today can read it."""
        _check_open(record)
        if record.record.is_cut:
            raise Conflict("the record was too large to be kept whole; it cannot be read again")
        try:
            deal_from_record(record.record.raw.encode(), platform=record.platform)
        except (BadDeal, MalformedAnswer) as error:
            raise Conflict(f"the record is still unreadable: {error}") from None
        changed = await self.records.ask_replay(record.link_id, record.quarantine_id)
        return _changed(changed, record)

    async def _discard(self, record: QuarantinedRecord, note: str) -> QuarantinedRecord:
        """Take an operator's word that the ledger lacks nothing."""
        _check_open(record)
        changed = await self.records.discard(record.link_id, record.quarantine_id, note=note)
        log.info(
            "quarantine.discarded",
            link_id=record.link_id,
            quarantine_id=record.quarantine_id,
            note=note,
        )
        return _changed(changed, record)


async def _discard_body(request: ApiRequest) -> DiscardBody:
    body = await read_body(request)
    try:
        return msgspec.json.decode(body, type=DiscardBody)
    except msgspec.ValidationError as error:
        raise Invalid([Violation(path="body", message=str(error))]) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from None


def _check_open(record: QuarantinedRecord) -> None:
    if record.state is not QuarantineState.OPEN:
        raise Conflict(f"record {record.quarantine_id} is {record.state} already")


def _changed(changed: QuarantinedRecord | None, record: QuarantinedRecord) -> QuarantinedRecord:
    if changed is None:
        raise Conflict(f"record {record.quarantine_id} was closed meanwhile")
    return changed
