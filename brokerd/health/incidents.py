"""Many links that fail together are one incident: one of them probes, the others wait their turn.

Theory. A link belongs to three scopes, each wider than the last: its broker's server, its region,
and all links of this node. When enough of a scope's links, in number and in part, are lost within
a minute, something they share has failed, and each of them dialling on its own would only hammer
it. So the scope becomes an incident: one link at a time, its *canary*, may try to come back, at
growing intervals; all others wait. Once one is live, or a session that broke is back by itself,
the others return one by one, at a rate that has all of them back soon. The incident closes when
fewer are left than would open one. When what returned is lost again, canaries probe again. A
wider scope takes over from a narrower one only when the lost links lie in more than one of these;
otherwise the narrower one tells more.

Nothing here waits: every method takes the monotonic time, and `turn` says how long to wait.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from brokerd.config.settings import HealthSettings
from brokerd.domain import LinkId


class Reach(StrEnum):
    """How wide an incident is, the narrowest first."""

    SERVER = "server"
    REGION = "region"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a link shares with others: its broker's server and its MetaApi region."""

    server: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whom an incident is about; `name` is the server's or the region's, empty for all."""

    reach: Reach
    name: str


CANARY_GROWTH = 1.5
RETURN_SECONDS = 30.0
"""A large incident's links return faster than the configured rate, all in so long."""
FORGET_SECONDS = 1_800.0
"""A lost link that nobody heard of for so long runs on another node, or nowhere."""


class Stage(StrEnum):
    """What became of an incident."""

    OPENED = "opened"
    RETURNING = "returning"  # a link is back; the others follow
    RELAPSED = "relapsed"  # what returned was lost again
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of an incident that is worth telling. `links_down` of `links` are not back."""

    scope: Scope
    stage: Stage
    links_down: int
    links: int
    lasted_seconds: float


@dataclass(slots=True)
class _Member:
    scopes: Sequence[Scope]
    seen_at: float
    is_live: bool = False
    lost_at: float | None = None


@dataclass(slots=True)
class _Incident:
    scope: Scope
    opened_at: float
    is_returning: bool = False
    canary_wait_seconds: float = 0.0
    canary_next_at: float = 0.0
    return_every_seconds: float = 0.0
    next_return_at: float = 0.0
    turns: dict[LinkId, float] = field(default_factory=dict)  # when each returns


class Incidents:
    """The incidents among the links of this node."""

    def __init__(self, settings: HealthSettings) -> None:
        self._settings = settings
        self._members: dict[LinkId, _Member] = {}
        self._open: dict[Scope, _Incident] = {}
        self._changes: list[Change] = []

    @property
    def open_scopes(self) -> Sequence[Scope]:
        """Return whom open incidents are about."""
        return tuple(self._open)

    def take_changes(self) -> Sequence[Change]:
        """Return what changed since the last call, in order."""
        taken, self._changes = self._changes, []
        return taken

    def joined(self, link_id: LinkId, place: Place, now: float) -> None:
        """Note that a link runs here, again if it gave its slot back while it was lost."""
        known, scopes = self._members.get(link_id), _scopes(place)
        if known is None or known.scopes != scopes:
            self._members[link_id] = _Member(scopes=scopes, seen_at=now)
        else:
            known.seen_at = now

    def left(self, link_id: LinkId, now: float) -> None:
        """Forget a link that is not wanted here any more; an incident may end by it."""
        if self._members.pop(link_id, None) is not None:
            self._close_what_is_over(now)

    def tick(self, now: float) -> None:
        """Forget lost links that somebody else must have taken; an incident may end by it."""
        oldest = now - FORGET_SECONDS
        for link_id, member in list(self._members.items()):
            if member.lost_at is not None and member.seen_at < oldest:
                self.left(link_id, now)

    def lost(self, link_id: LinkId, now: float) -> None:
        """Note that a live link was lost; one that never was is nobody's incident."""
        member = self._members.get(link_id)
        if member is None or not member.is_live:
            return
        member.is_live, member.lost_at, member.seen_at = False, now, now
        incident = self._incident_of(member)
        if incident is None:
            self._open_if_many(member, now)
        elif incident.is_returning and self._is_relapse(incident, now):
            self._restart(incident, now)

    def live(self, link_id: LinkId, now: float) -> None:
        """Note that a link is live; the first of an incident lets the others follow."""
        member = self._members.get(link_id)
        if member is None:
            return
        member.is_live, member.lost_at, member.seen_at = True, None, now
        incident = self._incident_of(member)
        if incident is not None:
            self._let_return(incident, now)
        self._close_what_is_over(now)

    def includes(self, link_id: LinkId) -> bool:
        """Say whether a link lies in the scope of an open incident."""
        member = self._members.get(link_id)
        return member is not None and self._incident_of(member) is not None

    def turn(self, link_id: LinkId, now: float, *, is_up: bool = False) -> float:
        """Return 0 when the link may come back, which uses a turn up, else the seconds to wait.

        `is_up`: its terminal answers already; it needs no canary.
        """
        member = self._members.get(link_id)
        incident = None if member is None else self._incident_of(member)
        if member is None or incident is None:
            return 0.0
        member.seen_at = now
        if is_up:
            self._let_return(incident, now)
        if incident.is_returning:
            return self._return_turn(incident, link_id, now)
        return self._canary_turn(incident, now)

    def _let_return(self, incident: _Incident, now: float) -> None:
        if incident.is_returning:
            return
        down = sum(member.lost_at is not None for member in self._within(incident.scope))
        rate = max(self._settings.returns_per_second, down / RETURN_SECONDS)
        incident.return_every_seconds = 1.0 / rate
        incident.is_returning = True
        incident.next_return_at = now
        self._tell(incident, Stage.RETURNING, now)

    def _return_turn(self, incident: _Incident, link_id: LinkId, now: float) -> float:
        """Give each link its own moment: if all came when one is due, all would come each time."""
        at = incident.turns.get(link_id)
        if at is None:
            at = incident.turns[link_id] = max(now, incident.next_return_at)
            incident.next_return_at = at + incident.return_every_seconds
        return max(0.0, at - now)

    def _canary_turn(self, incident: _Incident, now: float) -> float:
        """Let whoever asks first after the wait be the canary: one that cannot live is replaced."""
        if now < incident.canary_next_at:
            return max(1.0, incident.canary_next_at - now)
        incident.canary_next_at = now + incident.canary_wait_seconds
        incident.canary_wait_seconds = min(
            self._settings.canary_ceiling_seconds, incident.canary_wait_seconds * CANARY_GROWTH
        )
        return 0.0

    # When links have failed together.

    def _open_if_many(self, member: _Member, now: float) -> None:
        narrower: Scope | None = None
        chosen: Scope | None = None
        for scope in member.scopes:
            lost = self._lost_in(scope, now)
            if self._is_many(scope, len(lost)) and self._is_wider(lost, narrower):
                chosen = scope
            narrower = scope
        if chosen is None:
            return
        for scope in [scope for scope in self._open if _contains(chosen, scope, self._members)]:
            del self._open[scope]  # the wider one goes on for it
        incident = _Incident(
            scope=chosen,
            opened_at=now,
            canary_wait_seconds=self._settings.canary_seconds,
        )
        self._open[chosen] = incident
        self._tell(incident, Stage.OPENED, now)

    def _lost_in(self, scope: Scope, now: float) -> list[_Member]:
        since = now - self._settings.incident_window_seconds
        return [
            member
            for member in self._within(scope)
            if member.lost_at is not None and member.lost_at >= since
        ]

    def _is_many(self, scope: Scope, lost: int) -> bool:
        counted = sum(
            member.is_live or member.lost_at is not None for member in self._within(scope)
        )
        return (
            lost >= self._settings.incident_links and lost >= self._settings.incident_part * counted
        )

    @staticmethod
    def _is_wider(lost: Sequence[_Member], narrower: Scope | None) -> bool:
        return narrower is None or not all(narrower in member.scopes for member in lost)

    # How an incident goes on and ends.

    def _is_relapse(self, incident: _Incident, now: float) -> bool:
        since = now - self._settings.incident_window_seconds
        again = [
            at
            for link_id, at in incident.turns.items()
            if (member := self._members.get(link_id)) is not None
            and member.lost_at is not None
            and member.lost_at >= max(since, at)
        ]
        return len(again) >= self._settings.incident_links

    def _restart(self, incident: _Incident, now: float) -> None:
        incident.is_returning = False
        incident.canary_wait_seconds = self._settings.canary_seconds
        incident.canary_next_at = now + self._settings.canary_seconds
        incident.turns.clear()
        self._tell(incident, Stage.RELAPSED, now)

    def _close_what_is_over(self, now: float) -> None:
        for scope, incident in list(self._open.items()):
            down = sum(member.lost_at is not None for member in self._within(scope))
            if down < self._settings.incident_links:
                del self._open[scope]
                self._tell(incident, Stage.CLOSED, now)

    def _incident_of(self, member: _Member) -> _Incident | None:
        return next((self._open[scope] for scope in member.scopes if scope in self._open), None)

    def _within(self, scope: Scope) -> Iterator[_Member]:
        return (member for member in self._members.values() if scope in member.scopes)

    def _tell(self, incident: _Incident, stage: Stage, now: float) -> None:
        members = list(self._within(incident.scope))
        self._changes.append(
            Change(
                scope=incident.scope,
                stage=stage,
                links_down=sum(member.lost_at is not None for member in members),
                links=len(members),
                lasted_seconds=now - incident.opened_at,
            )
        )


def _scopes(place: Place) -> Sequence[Scope]:
    """Return the scopes a place lies in, the narrowest first."""
    return (
        Scope(reach=Reach.SERVER, name=place.server),
        Scope(reach=Reach.REGION, name=place.region),
        Scope(reach=Reach.ALL, name=""),
    )


def _contains(wide: Scope, narrow: Scope, members: dict[LinkId, _Member]) -> bool:
    """Say whether all links of the narrow scope that run here lie in the wide one."""
    return all(wide in member.scopes for member in members.values() if narrow in member.scopes)
