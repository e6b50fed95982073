"""What a PUT means: pure rules over the rows it meets, the same for every registry.

Theory. A link's id belongs to the client and names one living account row. An account row belongs
to an identity for ever: deleting a link ends it and keeps its ledger, and registering the identity
again, under whichever link id, continues the row. So a PUT meets at most two rows: the living one
of its link id and the one of its identity, and it goes ahead only if they are the same or one of
them does not exist. Backoff survives a change that does not touch what failed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from brokerd.domain import (
    AccountId,
    Backoff,
    Desired,
    LinkId,
    LinkSpec,
    MetaApiRef,
    Phase,
    Priority,
)
from brokerd.errors import Conflict, StaleVersion
from brokerd.queue.deadlines import deadline_for

LONGEST_BACKOFF = timedelta(days=1)
"""A link whose next attempt is further away waits for its client, not for a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What the lease row of an account says beside its owner.

    `has_errand`: the link is not wanted, and its MetaApi account must still be put away.
    """

    is_wanted: bool
    deadline: datetime
    queued_at: datetime
    not_before: datetime | None
    backoff: Backoff
    has_errand: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """An account's row with its lease, as a PUT finds them."""

    account_id: AccountId
    link_id: LinkId
    spec: LinkSpec
    generation: int
    is_deleted: bool
    is_owned: bool
    waiting: Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """What a client asks. `if_match` is the generation it believes in."""

    link_id: LinkId
    spec: LinkSpec
    if_match: int | None = None
    must_be_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What to write. `account_id` None makes a new row.

    `joins_queue`: the queue grows by it, so its length counts. `entered` is the phase to store for
    a link that nobody runs; None leaves the phase as reported. `forgets_auth`: it is about another
    account or password, of which the broker has said nothing yet; `forgets_created`: of another
    token, so what was created is not its own.
    """

    account_id: AccountId | None
    generation: int
    is_new: bool
    is_changed: bool
    is_owned: bool
    joins_queue: bool
    waiting: Waiting
    entered: Phase | None
    forgets_auth: bool = False
    forgets_created: bool = False


def decide(
    put: Put,
    *,
    named: Registered | None,
    identified: Registered | None,
    now: datetime,
    patience_seconds: Mapping[Priority, float],
) -> Registration:
    """Say what a PUT does, or raise `Conflict` or `StaleVersion`.

    `named` is the living row of the link id, `identified` the row of the identity.
    """
    _check_precondition(put, named)
    deadline = deadline_for(now, priority=put.spec.priority, patience_seconds=patience_seconds)
    fresh = Waiting(
        is_wanted=put.spec.desired is Desired.LIVE,
        deadline=deadline,
        queued_at=now,
        not_before=None,
        backoff=Backoff(),
        has_errand=_has_errand(put.spec, is_known=(named or identified) is not None),
    )
    if named is not None:
        _check_unchanged(put, named)
        return _replaced(put, named, fresh=fresh, patience_seconds=patience_seconds)
    if identified is not None:
        _check_free(put, identified)
    is_owned = identified is not None and identified.is_owned
    return Registration(
        account_id=identified.account_id if identified else None,
        generation=identified.generation + 1 if identified else 1,
        is_new=True,
        is_changed=True,
        is_owned=is_owned,
        joins_queue=fresh.is_wanted and not is_owned,
        waiting=fresh,
        entered=_resting_phase(put.spec),
        forgets_auth=identified is not None and put.spec.metaapi != identified.spec.metaapi,
        forgets_created=identified is not None and not _is_same_token(put.spec, identified.spec),
    )


def _check_precondition(put: Put, named: Registered | None) -> None:
    if put.must_be_new and named is not None:
        raise StaleVersion(f"link {put.link_id} exists, in generation {named.generation}")
    if put.if_match is not None and named is None:
        raise StaleVersion(f"link {put.link_id} does not exist")
    if put.if_match is not None and named is not None and put.if_match != named.generation:
        raise StaleVersion(
            f"link {put.link_id} is in generation {named.generation}, not {put.if_match}"
        )


def _check_unchanged(put: Put, named: Registered) -> None:
    if put.spec.identity != named.spec.identity:
        raise Conflict(
            f"link {put.link_id} is for another identity, which cannot change; delete the link or "
            "choose another id"
        )
    if put.spec.user_id != named.spec.user_id:
        raise Conflict(
            f"link {put.link_id} belongs to another user, which cannot change: its deals carry the "
            "user; delete the link and register it again"
        )
    _check_history(put, named)


def _check_history(put: Put, existing: Registered) -> None:
    """Keep where the history starts: windows and proofs of the ledger rest on it."""
    if put.spec.sync_from != existing.spec.sync_from:
        start = existing.spec.sync_from
        shown = "null" if start is None else start.isoformat()
        raise Conflict(
            f"the ledger of this account was begun with syncFrom {shown}, which cannot change"
        )


def _check_free(put: Put, identified: Registered) -> None:
    if not identified.is_deleted:
        raise Conflict(f"the identity is taken by link {identified.link_id}")
    if identified.is_owned and identified.link_id != put.link_id:
        raise Conflict(f"link {identified.link_id} of this identity still drains; try again soon")
    _check_history(put, identified)


def _replaced(
    put: Put, named: Registered, *, fresh: Waiting, patience_seconds: Mapping[Priority, float]
) -> Registration:
    before, is_changed = named.waiting, put.spec != named.spec
    is_redialled = put.spec.metaapi != named.spec.metaapi
    waiting = before
    is_stopped = put.spec.desired is Desired.STOPPED
    if put.spec.desired is not named.spec.desired and is_stopped:
        waiting = fresh  # what failed is over, and putting the account away must not wait for it
    elif put.spec.desired is not named.spec.desired:
        waiting = replace(
            fresh, not_before=_passing(before, now=fresh.queued_at), backoff=before.backoff
        )
    elif put.spec.priority is not named.spec.priority:
        deadline = deadline_for(
            before.queued_at, priority=put.spec.priority, patience_seconds=patience_seconds
        )
        waiting = replace(before, deadline=deadline)
    if is_redialled:
        waiting = fresh
    rests_anew = is_redialled or put.spec.desired is not named.spec.desired
    return Registration(
        account_id=named.account_id,
        generation=named.generation + is_changed,
        is_new=False,
        is_changed=is_changed,
        is_owned=named.is_owned,
        joins_queue=waiting.is_wanted and not before.is_wanted and not named.is_owned,
        waiting=waiting,
        entered=_resting_phase(put.spec) if rests_anew else None,
        forgets_auth=is_redialled,
        forgets_created=not _is_same_token(put.spec, named.spec),
    )


def _is_same_token(one: LinkSpec, other: LinkSpec) -> bool:
    return one.metaapi.token == other.metaapi.token


def _has_errand(spec: LinkSpec, *, is_known: bool) -> bool:
    """Say whether a stopped link may have an account that runs: named, or created before."""
    is_stopped = spec.desired is Desired.STOPPED
    return is_stopped and (is_known or isinstance(spec.metaapi, MetaApiRef))


def _passing(waiting: Waiting, *, now: datetime) -> datetime | None:
    """Return until when a backoff lasts; one that no time ends is over when its client says so."""
    if waiting.not_before is None or waiting.not_before - now > LONGEST_BACKOFF:
        return None
    return waiting.not_before


def _resting_phase(spec: LinkSpec) -> Phase:
    """Return the phase of a link that nobody runs."""
    match spec.desired:
        case Desired.LIVE:
            return Phase.QUEUED
        case Desired.PAUSED:
            return Phase.PAUSED
        case Desired.STOPPED:
            return Phase.STOPPED
        case _:
            assert_never(spec.desired)
