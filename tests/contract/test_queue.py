"""Every queue keeps the same promises: one suite over memory and Postgres."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from brokerd.connector.ports import LeaseHandle
from brokerd.domain import AccountId, Backoff, Desired, Incarnation, LinkStatus, Phase
from brokerd.errors import Fenced
from brokerd.pool.ports import Nodes
from brokerd.queue.ports import Queue
from brokerd.store.memory import LeaseRow

Add = Callable[..., Awaitable[AccountId]]
Alter = Callable[..., Awaitable[None]]
LeaseOf = Callable[[AccountId], Awaitable[LeaseRow]]


def reported(generation: int) -> LinkStatus:
    """Build what an owner reports."""
    return LinkStatus(
        phase=Phase.LIVE,
        reason="Live",
        message="",
        observed_generation=generation,
        since=datetime.now(UTC),
    )


async def claimed(queue: Queue, node: Incarnation, limit: int = 100) -> list[AccountId]:
    """Claim and return the accounts in the order of the answer."""
    return [claim.fence.account_id for claim in await queue.claim(node, limit=limit)]


async def test_the_earliest_deadline_is_claimed_first(queue: Queue, nodes: Nodes, add: Add) -> None:
    """Claims come in deadline order, and no more than asked for."""
    late, early, middle = [await add(due_seconds=due) for due in (30, 10, 20)]
    node = await nodes.register("a", max_links=10)
    assert await claimed(queue, node, 2) == [early, middle]
    assert await claimed(queue, node, 2) == [late]


async def test_equal_deadlines_are_claimed_in_the_order_of_accounts(
    queue: Queue, nodes: Nodes, add: Add
) -> None:
    """The order is total, whatever order the rows were written in."""
    accounts = [await add() for _ in range(3)]
    first = await nodes.register("a", max_links=1)
    (claim,) = await queue.claim(first, limit=1)
    assert claim.fence.account_id == accounts[0]
    await nodes.retire(first)  # writes the first account's row anew, with its deadline kept
    assert await claimed(queue, await nodes.register("a", max_links=10)) == accounts


async def test_a_claim_brings_all_that_its_owner_needs(
    queue: Queue, nodes: Nodes, add: Add, lease_of: LeaseOf
) -> None:
    """Spec, generation, fence and backoff are those of the rows."""
    account_id = await add(attempt=4, bound_seconds=16.0)
    node = await nodes.register("a", max_links=10)
    (claim,) = await queue.claim(node, limit=1)
    assert (claim.fence.account_id, claim.fence.incarnation) == (account_id, node)
    assert claim.backoff == Backoff(attempt=4, bound_seconds=16.0)
    assert (claim.generation, claim.is_deleted) == (1, False)
    assert claim.spec.desired is Desired.LIVE
    assert claim.spec.sync_from == datetime(2024, 1, 1, tzinfo=UTC)
    assert claim.spec.labels == {"tier": "gold"}
    assert claim.spec.metaapi.account_id == f"m-{claim.spec.identity.login}"
    lease = await lease_of(account_id)
    assert (lease.owner, lease.epoch) == (node, claim.fence.epoch)


async def test_each_claim_raises_the_epoch(
    queue: Queue, nodes: Nodes, leases: LeaseHandle, add: Add
) -> None:
    """A lease that comes back to the same owner is another lease."""
    await add()
    node = await nodes.register("a", max_links=10)
    (first,) = await queue.claim(node, limit=1)
    await leases.release(first.fence, backoff=Backoff(), delay_seconds=0)
    (second,) = await queue.claim(node, limit=1)
    assert second.fence.epoch > first.fence.epoch
    with pytest.raises(Fenced):
        await leases.save_backoff(first.fence, Backoff())


async def test_what_is_owned_or_unwanted_or_in_backoff_is_not_claimed(
    queue: Queue, nodes: Nodes, add: Add
) -> None:
    """Only what waits is taken, and by one node only."""
    await add(is_wanted=False)
    await add(not_before_seconds=60)
    waiting = await add()
    one = await nodes.register("a", max_links=10)
    other = await nodes.register("b", max_links=10)
    assert await claimed(queue, one) == [waiting]
    assert await claimed(queue, other) == []


async def test_a_backoff_that_passed_is_claimed_in_its_turn(
    queue: Queue, nodes: Nodes, add: Add, lease_of: LeaseOf
) -> None:
    """After `not_before` a link stands where its deadline puts it."""
    after = await add(due_seconds=20, not_before_seconds=-1)
    before = await add(due_seconds=10)
    node = await nodes.register("a", max_links=10)
    assert await claimed(queue, node) == [before, after]
    assert (await lease_of(after)).not_before is None


async def test_a_closed_incarnation_claims_nothing(queue: Queue, nodes: Nodes, add: Add) -> None:
    """A zombie is told that it is one."""
    account_id = await add()
    zombie = await nodes.register("a", max_links=10)
    heir = await nodes.register("a", max_links=10)
    with pytest.raises(Fenced):
        await queue.claim(zombie, limit=1)
    assert await claimed(queue, heir) == [account_id]


async def test_a_node_never_owns_more_than_it_registered_for(
    queue: Queue, nodes: Nodes, add: Add
) -> None:
    """Even a caller that miscounts stays within its limit."""
    for _ in range(5):
        await add()
    node = await nodes.register("a", max_links=3)
    assert len(await queue.claim(node, limit=2)) == 2
    assert len(await queue.claim(node, limit=5)) == 1
    assert await queue.claim(node, limit=5) == []


async def test_a_newer_spec_is_seen_until_its_generation_is_reported(
    queue: Queue, nodes: Nodes, leases: LeaseHandle, add: Add, alter: Alter
) -> None:
    """`changed` compares with what the owner said, not with what it was once told."""
    account_id = await add()
    node = await nodes.register("a", max_links=10)
    (claim,) = await queue.claim(node, limit=1)
    assert await queue.changed(node) == []
    await leases.report(claim.fence, reported(1))
    assert await queue.changed(node) == []
    await alter(account_id)
    (newer,) = await queue.changed(node)
    assert (newer.fence, newer.generation) == (claim.fence, 2)
    await leases.report(claim.fence, reported(2))
    assert await queue.changed(node) == []


@pytest.mark.parametrize("end", [{"is_wanted": False}, {"is_deleted": True}], ids=str)
async def test_an_unwanted_link_is_seen_until_it_is_released(
    *,
    queue: Queue,
    nodes: Nodes,
    leases: LeaseHandle,
    add: Add,
    alter: Alter,
    end: dict[str, bool],
) -> None:
    """A pause or a deletion is told its owner again and again, reported or not."""
    account_id = await add()
    node = await nodes.register("a", max_links=10)
    (claim,) = await queue.claim(node, limit=1)
    await alter(account_id, **end)
    (newer,) = await queue.changed(node)
    assert newer.is_deleted is end.get("is_deleted", False)
    await leases.report(claim.fence, reported(2))
    assert len(await queue.changed(node)) == 1
    await leases.release(claim.fence, backoff=Backoff(), delay_seconds=0)
    assert await queue.changed(node) == []
    assert await queue.claim(node, limit=1) == []


async def test_owned_tells_every_lease_of_one_node(queue: Queue, nodes: Nodes, add: Add) -> None:
    """After a lost answer a node can ask what it holds, with the same claims."""
    for _ in range(3):
        await add()
    node = await nodes.register("a", max_links=2)
    other = await nodes.register("b", max_links=2)
    claims = await queue.claim(node, limit=2)
    assert sorted(claims, key=str) == sorted(await queue.owned(node), key=str)
    assert await queue.owned(other) == []


async def test_depth_counts_what_may_be_claimed_and_what_not_yet(
    queue: Queue, nodes: Nodes, add: Add
) -> None:
    """Backoffs that passed count as ready; owned and unwanted links do not count."""
    assert (await queue.depth()).oldest_seconds == 0.0
    await add(due_seconds=-100)
    node = await nodes.register("a", max_links=1)
    await queue.claim(node, limit=1)
    await add(waited_seconds=30)
    await add(waited_seconds=5, not_before_seconds=-5)
    await add(waited_seconds=500, not_before_seconds=60)
    await add(waited_seconds=500, is_wanted=False)
    depth = await queue.depth()
    assert (depth.ready, depth.in_backoff) == (2, 1)
    assert 30 <= depth.oldest_seconds < 40
