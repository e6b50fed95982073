"""Waiting for states that pass by themselves, with one list for all who wait."""

import asyncio
from collections.abc import Sequence

import pytest
from link_world import VirtualClock

from brokerd.connector.provisioning.plan import IN_TRANSITION
from brokerd.connector.provisioning.transitions import Transitions
from brokerd.domain import MetaApiRef
from brokerd.errors import RemoteUnavailable, Unauthorized

pytestmark = pytest.mark.looptime(noop_cycles=0)


class Listing:
    """The part of provisioning that is looked at: who is in transition, until when."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}
        self.asked_at: list[float] = []
        self.failures: list[Exception] = []

    async def accounts(self, token: str, *, login=None, states: Sequence[str] = ()):
        """List the accounts in transition."""
        assert (token, login, tuple(states)) == ("main", None, IN_TRANSITION)
        now = asyncio.get_running_loop().time()
        self.asked_at.append(now)
        await asyncio.sleep(0.5)
        if self.failures:
            raise self.failures.pop(0)
        return [Listed(account_id) for account_id, end in self.until.items() if end > now]


class Listed:
    """An account in the list."""

    def __init__(self, account_id: str) -> None:
        self.account_id = account_id


def ref(number: int) -> MetaApiRef:
    """Build where an account is."""
    return MetaApiRef(token="main", account_id=f"m-{number}", region="london")


def transitions(listing: Listing) -> Transitions:
    """Build what is tested."""
    return Transitions(listing, poll_seconds=5.0, clock=VirtualClock())


async def test_three_hundred_who_wait_are_told_by_one_list_in_five_seconds():
    """However many wait, and whenever they began: the list is asked for at most so often."""
    listing = Listing()
    listing.until = {f"m-{n}": 60.0 + n / 10 for n in range(300)}
    waiting = transitions(listing)
    ended: dict[int, float] = {}

    async def wait(number: int) -> None:
        await asyncio.sleep(number / 50)
        await waiting.passed(ref(number))
        ended[number] = asyncio.get_running_loop().time()

    async with asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(wait(number))
    assert all(0 <= ended[n] - listing.until[f"m-{n}"] <= 11 for n in range(300))
    gaps = [
        late - early for early, late in zip(listing.asked_at, listing.asked_at[1:], strict=False)
    ]
    assert min(gaps) >= 5
    assert len(listing.asked_at) <= 22


async def test_a_list_that_began_before_the_wait_says_nothing():
    """What was ordered a moment ago cannot show in it yet."""
    listing = Listing()
    waiting = transitions(listing)
    await waiting.passed(ref(1))
    listing.until["m-2"] = 20.0
    await waiting.passed(ref(2))
    assert asyncio.get_running_loop().time() > 20


async def test_nobody_waits_nobody_asks():
    """There is no loop of its own."""
    listing = Listing()
    transitions(listing)
    await asyncio.sleep(3600)
    assert listing.asked_at == []


async def test_a_failure_is_waited_out_by_all():
    """It does not end their waits, nor is it asked again by each of them."""
    listing = Listing()
    listing.failures = [RemoteUnavailable("gone")] * 2
    waiting = transitions(listing)
    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(waiting.passed(ref(number)))
    assert len(listing.asked_at) == 3


async def test_a_refusal_ends_the_wait():
    """A token that is not allowed to look will not be by waiting."""
    listing = Listing()
    listing.failures = [Unauthorized("revoked")]
    with pytest.raises(Unauthorized):
        await transitions(listing).passed(ref(1))
