"""What a submitted password means: pure rules, the same for every registry.

Theory. The very same password submitted again is no news, however often: it neither raises a
version nor costs anything. It is news once MetaApi refused it for a reason that its user may have
mended since, as a one-time password. Other credentials end every backoff: what failed may have
failed because of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from brokerd.api.ports import SubmittedPassword
from brokerd.api.registration import Registered, Registration, Waiting
from brokerd.connector.provisioning.ports import CredentialState, KeptPassword
from brokerd.domain import Backoff, Phase, Priority
from brokerd.errors import Conflict, KnownBadCredentials
from brokerd.queue.deadlines import deadline_for


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a submission meets: the account's newest password, and whether this one is known bad.

    `is_provisioned`: the account exists at MetaApi, as far as we know.
    """

    now: datetime
    version: int
    is_provisioned: bool
    kept: KeptPassword | None
    is_known_bad: bool


def decide_submission(
    password: SubmittedPassword,
    *,
    named: Registered,
    found: Found,
    patience_seconds: Mapping[Priority, float],
) -> Registration | None:
    """Say what to write beside the password; None when it is no news.

    Raises `KnownBadCredentials`, or `Conflict` for an identity that is not the link's any more.
    """
    if named.spec.identity != password.identity:
        raise Conflict(f"link {named.link_id} is for another identity by now; look again")
    if found.is_known_bad:
        raise KnownBadCredentials(
            f"the broker refused these very credentials of link {named.link_id} before; "
            "they are not tried again"
        )
    kept = found.kept
    if kept is not None and kept.digest in password.digests and _is_good(kept, found):
        return None
    waiting = named.waiting
    if waiting.is_wanted:
        waiting = Waiting(
            is_wanted=True,
            deadline=deadline_for(
                found.now, priority=named.spec.priority, patience_seconds=patience_seconds
            ),
            queued_at=found.now,
            not_before=None,
            backoff=Backoff(),
        )
    return Registration(
        account_id=named.account_id,
        generation=named.generation + 1,
        is_new=False,
        is_changed=True,
        is_owned=named.is_owned,
        joins_queue=False,
        waiting=waiting,
        entered=Phase.QUEUED if waiting.is_wanted else None,
        forgets_auth=True,
    )


def _is_good(kept: KeptPassword, found: Found) -> bool:
    """Say whether a password is used, or still waits to be and may yet be taken."""
    if kept.state is CredentialState.WAITING:
        return kept.is_sealed and not kept.was_refused
    return found.is_provisioned and kept.state is not CredentialState.REJECTED
