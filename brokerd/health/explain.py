"""A link's story in plain words: what is wanted, what is and why, what comes next, who must act.

Every phase has one row: what it means, what happens next, and what would change it. What holds a
link back beyond that, such as the queue, a closed market or an open quarantine, is added as it is
found. Sentences are for people; programs act on conditions.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from brokerd.domain import Desired, Phase, UserAction
from brokerd.health.conditions import Condition, ConditionType, Shown, Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that a story is told from.

    `next_attempt_at` is when the link tries again by itself; `queue_position` is None when it does
    not wait; `opens_at` is when a closed market opens, None when it is open or nobody knows.
    """

    desired: Desired
    generation: int
    observed_generation: int
    shown: Shown
    user_action: UserAction
    next_attempt_at: datetime | None
    queue_position: int | None
    conditions: Sequence[Condition]
    opens_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What a person is told."""

    wanted: str
    now: str
    next_step: str
    next_at: datetime | None
    blocked_by: tuple[str, ...]
    would_change: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Row:
    now: str
    next_step: str
    would_change: tuple[str, ...] = ()


_PAUSE = "setting desired to paused, or deleting the link, ends it"
_ROWS: Mapping[Phase, _Row] = {
    Phase.QUEUED: _Row(
        "it waits for a slot of a node",
        "a node claims it when its deadline is the earliest of those that wait",
        ("a higher priority", "more slots (pool.max_links), or a link that gives one back"),
    ),
    Phase.CLAIMED: _Row("a node has just taken it", "the node dials"),
    Phase.PROVISIONING: _Row(
        "its MetaApi account is being created, deployed or undeployed",
        "the node dials once MetaApi says that the account is deployed",
    ),
    Phase.CONNECTING: _Row(
        "its session is being opened", "its terminal answers, or the attempt times out"
    ),
    Phase.VERIFYING: _Row(
        "its terminal answered; the account behind it is compared with the registered one",
        "history is pulled once they are the same",
    ),
    Phase.SYNCING: _Row(
        "history is being pulled, or an interrupted stream is being waited for",
        "it is live once a pull closed the sync",
    ),
    Phase.LIVE: _Row("deals are committed as they come", "history is read again at its pace"),
    Phase.SUSPECT: _Row("nothing was heard of it for too long", "a probe decides within seconds"),
    Phase.BACKOFF: _Row("its last attempt failed; it waits", "it dials again", (_PAUSE,)),
    Phase.AUTH_SUSPECT: _Row(
        "the broker refused credentials that it took last week",
        "they are tried once more, and only once",
        ("new credentials (PUT /v1/links/{id}/credentials)",),
    ),
    Phase.AUTH_FAILED: _Row(
        "the broker refuses its login and password",
        "nothing: further attempts could cost money and lock the account",
        ("new credentials (PUT /v1/links/{id}/credentials)",),
    ),
    Phase.BLOCKED: _Row(
        "it was refused for a reason outside the link",
        "it is looked at again at the time given",
        ("whoever is named as userAction acts", _PAUSE),
    ),
    Phase.QUARANTINED: _Row(
        "the account that answered is not the registered one; nothing is written",
        "it is looked at again at the time given",
        ("the registered account answers again", "an operator registers what is there now"),
    ),
    Phase.DRAINING: _Row("it commits what is in hand", "it gives its slot back"),
    Phase.PAUSED: _Row("it rests; its MetaApi account stays deployed", "nothing", ("desired",)),
    Phase.STOPPED: _Row("it rests; its MetaApi account is undeployed", "nothing", ("desired",)),
    Phase.DELETING: _Row("it was deleted, and its owner still drains it", "it is gone"),
}
_ACTIONS: Mapping[UserAction, str] = {
    UserAction.DEPLOY_ACCOUNT: "somebody must deploy the MetaApi account",
    UserAction.FIX_TOKEN: "an operator must put a valid MetaApi token in place",
    UserAction.FIX_IDENTITY: "somebody must register the account that really answers",
    UserAction.CONTACT_OPERATOR: "an operator must look at the reason",
    UserAction.UPDATE_CREDENTIALS: "the user must give new credentials",
    UserAction.ACCEPT_BROKER_TERMS: "the user must log in to the broker's own terminal once",
    UserAction.CONTACT_BROKER: "the user must ask the broker why the account is disabled",
    UserAction.TOP_UP: "whoever pays MetaApi must top up its balance",
}


def tell(situation: Situation) -> Story:
    """Tell the story of a link."""
    row = _ROWS[situation.shown.phase]
    return Story(
        wanted=_wanted(situation),
        now=_now(situation, row),
        next_step=row.next_step,
        next_at=situation.next_attempt_at,
        blocked_by=tuple(_blocks(situation)),
        would_change=row.would_change,
    )


def _wanted(situation: Situation) -> str:
    taken = situation.observed_generation >= situation.generation
    lag = "" if taken else f"; its owner has seen generation {situation.observed_generation} only"
    return f"{situation.desired} (generation {situation.generation}{lag})"


def _now(situation: Situation, row: _Row) -> str:
    shown = situation.shown
    detail = f": {shown.message}" if shown.message else ""
    return f"{shown.phase} since {shown.since.isoformat()}, {row.now} ({shown.reason}{detail})"


def _blocks(situation: Situation) -> Iterator[str]:
    if situation.user_action is not UserAction.NONE:
        yield _ACTIONS[situation.user_action]
    if situation.queue_position is not None and situation.queue_position > 1:
        yield f"{situation.queue_position - 1} links are due before it"
    if situation.opens_at is not None:
        yield f"the broker's market is closed until {situation.opens_at.isoformat()}"
    for condition in situation.conditions:
        if condition.type is ConditionType.LEDGER_PROVEN and condition.status is not Truth.TRUE:
            yield f"its ledger is not proven: {condition.message or condition.reason}"
