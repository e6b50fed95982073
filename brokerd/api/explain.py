"""A link's story over HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass

from litestar import Response
from litestar.params import FromPath

from brokerd.api.bodies import EnteredBody, ExplainBody, UptimeBody
from brokerd.api.links import ApiRequest, json_answer
from brokerd.api.ports import LinkRecord, Registry
from brokerd.api.query import Query
from brokerd.api.validation import check_id
from brokerd.api.views import facts_of
from brokerd.domain import LinkId
from brokerd.errors import NotFound
from brokerd.health.calendar import Calendar
from brokerd.health.conditions import conditions, shown
from brokerd.health.explain import Situation, tell
from brokerd.health.ports import Past
from brokerd.health.uptime import Entered, uptimes

TOLD = 20
"""Changes of phase that a story shows."""
READ = 10_000
"""Changes of phase that uptime is measured from; what flaps more is measured over less time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainRoutes:
    """The handler of /v1/links/{id}/explain."""

    registry: Registry
    past: Past
    calendar: Calendar

    async def explain(self, link_id: FromPath[str], request: ApiRequest) -> Response[bytes]:
        """Tell what a link is wanted to be, what it is and why, and what comes next."""
        check_id(link_id, path="/v1/links/{id}")
        Query(request.scope["query_string"], known=()).check()
        known = LinkId(link_id)
        record = await self.registry.get(known)
        if record is None:
            raise NotFound(f"no link {known} is registered")
        past = await self.past.of(known, limit=READ)
        return json_answer(explain_body(record, past, calendar=self.calendar), headers={})


def explain_body(record: LinkRecord, past: Sequence[Entered], *, calendar: Calendar) -> ExplainBody:
    """Show a link's story, its uptime, and its last changes, the newest first."""
    situation = _situation(record, calendar)
    story = tell(situation)
    hours = calendar.of(record.spec.identity.server)
    return ExplainBody(
        link_id=record.link_id,
        phase=situation.shown.phase,
        since=situation.shown.since,
        wanted=story.wanted,
        now=story.now,
        next_step=story.next_step,
        next_at=story.next_at,
        user_action=record.status.user_action,
        blocked_by=list(story.blocked_by),
        would_change=list(story.would_change),
        uptime={
            span: UptimeBody(
                ratio=None if each.ratio is None else round(each.ratio, 6),
                live_seconds=round(each.live_seconds, 3),
                expected_seconds=round(each.expected_seconds, 3),
            )
            for span, each in uptimes(past, now=record.read_at, hours=hours).items()
        },
        transitions=[
            EnteredBody(at=each.at, phase=each.phase, reason=each.reason)
            for each in reversed(past[-TOLD:])
        ],
    )


def _situation(record: LinkRecord, calendar: Calendar) -> Situation:
    facts = facts_of(record, calendar)
    now = shown(facts)
    hours = calendar.of(record.spec.identity.server)
    is_closed = facts.is_market_open is False
    return Situation(
        desired=record.spec.desired,
        generation=record.generation,
        observed_generation=record.status.observed_generation,
        shown=now,
        user_action=record.status.user_action,
        next_attempt_at=record.status.next_attempt_at if now.phase is record.status.phase else None,
        queue_position=record.queue.position if record.queue else None,
        conditions=conditions(facts),
        opens_at=hours.opens_at(record.read_at) if hours is not None and is_closed else None,
    )
