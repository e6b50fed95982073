"""The plan keeps within the slots, whatever the situation."""

from hypothesis import given
from hypothesis import strategies as st

from brokerd.domain import AccountId, Fence, Incarnation
from brokerd.pool.plan import Plan, Situation, plan


def fences(number: int) -> tuple[Fence, ...]:
    """Build so many fences, in the order of claiming."""
    return tuple(
        Fence(account_id=AccountId(each), incarnation=Incarnation(1), epoch=1)
        for each in range(number)
    )


def situation(
    *,
    max_links: int = 10,
    staying: int = 0,
    leaving: int = 0,
    waiting: int = 0,
    is_frozen: bool = False,
    is_draining: bool = False,
) -> Situation:
    """Build a situation from counts."""
    return Situation(
        max_links=max_links,
        staying=fences(staying),
        leaving=leaving,
        waiting=waiting,
        is_frozen=is_frozen,
        is_draining=is_draining,
    )


counts = st.integers(min_value=0, max_value=50)
situations = st.builds(
    situation,
    max_links=counts,
    staying=counts,
    leaving=counts,
    waiting=counts,
    is_frozen=st.booleans(),
    is_draining=st.booleans(),
)


@given(situations)
def test_a_claim_never_takes_more_than_the_free_slots(given_situation: Situation) -> None:
    """Held and claimed together stay within the limit, links that leave included."""
    claims = plan(given_situation).claims
    held = len(given_situation.staying) + given_situation.leaving
    assert claims == 0 or held + claims <= given_situation.max_links
    assert 0 <= claims <= given_situation.waiting


@given(situations)
def test_a_slot_is_filled_while_somebody_waits(given_situation: Situation) -> None:
    """Unless frozen or draining, a slot stays free only if nobody waits for it."""
    if given_situation.is_frozen or given_situation.is_draining:
        return
    claims = plan(given_situation).claims
    held = len(given_situation.staying) + given_situation.leaving
    assert claims == given_situation.waiting or held + claims >= given_situation.max_links


@given(situations)
def test_only_a_surplus_is_evicted_and_the_newest_first(given_situation: Situation) -> None:
    """What stays is a run of the oldest, exactly as many as there are slots, or all."""
    evictions = plan(given_situation).evictions
    staying = tuple(given_situation.staying)
    kept = tuple(fence for fence in staying if fence not in evictions)
    assert kept == staying[: len(kept)]
    assert tuple(reversed(evictions)) == staying[len(kept) :]
    if not (given_situation.is_frozen or given_situation.is_draining):
        assert len(kept) == min(len(staying), given_situation.max_links)


@given(situations)
def test_never_claim_and_evict_at_once(given_situation: Situation) -> None:
    """A link is not sent away to make room for another of the same kind."""
    decision = plan(given_situation)
    assert decision.claims == 0 or decision.evictions == ()


def test_a_frozen_or_draining_node_decides_nothing() -> None:
    """Neither claims nor evictions, however many wait or are too many."""
    for held in (0, 20):
        assert plan(situation(staying=held, waiting=5, is_frozen=True)) == Plan()
        assert plan(situation(staying=held, waiting=5, is_draining=True)) == Plan()


def test_links_that_leave_already_count_as_leaving_only_once() -> None:
    """After the limit was lowered the surplus is sent away once, not again each second."""
    assert len(plan(situation(max_links=6, staying=10)).evictions) == 4
    assert plan(situation(max_links=6, staying=6, leaving=4)) == Plan()
