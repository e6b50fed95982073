"""Every register of nodes keeps the same promises: one suite over memory and Postgres."""

from collections.abc import Awaitable, Callable

import pytest

from brokerd.connector.ports import LeaseHandle
from brokerd.domain import AccountId, Backoff, Incarnation
from brokerd.errors import Fenced
from brokerd.pool.ports import Nodes
from brokerd.queue.ports import Queue
from brokerd.store.memory import LeaseRow

Add = Callable[..., Awaitable[AccountId]]
LeaseOf = Callable[[AccountId], Awaitable[LeaseRow]]
Silence = Callable[[Incarnation, float], Awaitable[None]]


async def test_each_start_is_a_new_and_higher_incarnation(nodes: Nodes) -> None:
    """Incarnations rise over all nodes."""
    first = await nodes.register("a", max_links=1)
    other = await nodes.register("b", max_links=1)
    again = await nodes.register("a", max_links=1)
    assert first < other < again


async def test_a_restart_fences_its_forerunner_and_frees_its_links_at_once(
    queue: Queue, nodes: Nodes, add: Add, lease_of: LeaseOf
) -> None:
    """After kill -9 the same node goes on without waiting for anybody's lease to run out."""
    account_id = await add(due_seconds=33, attempt=3, bound_seconds=8.0)
    killed = await nodes.register("a", max_links=1)
    await queue.claim(killed, limit=1)
    held = await lease_of(account_id)
    restarted = await nodes.register("a", max_links=1)
    freed = await lease_of(account_id)
    assert (freed.owner, freed.not_before) == (None, None)
    assert freed.deadline == held.deadline
    assert freed.queued_at > held.queued_at
    (claim,) = await queue.claim(restarted, limit=1)
    assert claim.backoff == Backoff(attempt=3, bound_seconds=8.0)
    with pytest.raises(Fenced):
        await nodes.heartbeat(killed)


async def test_a_restart_leaves_other_nodes_alone(
    queue: Queue, nodes: Nodes, add: Add, lease_of: LeaseOf
) -> None:
    """Only the namesake is closed."""
    account_id = await add()
    other = await nodes.register("b", max_links=1)
    await queue.claim(other, limit=1)
    await nodes.register("a", max_links=1)
    await nodes.register("a", max_links=1)
    await nodes.heartbeat(other)
    assert (await lease_of(account_id)).owner == other


async def test_a_silent_node_is_buried_and_its_links_are_free(
    queue: Queue, nodes: Nodes, add: Add, lease_of: LeaseOf, silence: Silence
) -> None:
    """Who is silent for longer than a lease loses it, and learns of it at the next heartbeat."""
    account_id = await add(due_seconds=33)
    silent = await nodes.register("a", max_links=1)
    await queue.claim(silent, limit=1)
    held = await lease_of(account_id)
    witness = await nodes.register("b", max_links=1)
    talking = await nodes.register("c", max_links=1)
    await silence(silent, 16)
    await silence(witness, 16)
    await silence(talking, 14)
    assert await nodes.bury(witness, silent_seconds=15) == 1
    await nodes.heartbeat(talking)
    await nodes.heartbeat(witness)
    freed = await lease_of(account_id)
    assert (freed.owner, freed.not_before, freed.deadline) == (None, None, held.deadline)
    with pytest.raises(Fenced):
        await nodes.heartbeat(silent)
    assert await nodes.bury(witness, silent_seconds=15) == 0


async def test_nobody_is_buried_who_spoke_in_time_nor_oneself(
    nodes: Nodes, silence: Silence
) -> None:
    """A heartbeat counts by the store's clock, and a node does not bury itself."""
    one = await nodes.register("a", max_links=1)
    witness = await nodes.register("b", max_links=1)
    await silence(one, 16)
    await silence(witness, 16)
    await nodes.heartbeat(one)
    assert await nodes.bury(witness, silent_seconds=15) == 0
    await nodes.heartbeat(one)
    await nodes.heartbeat(witness)


async def test_a_retired_node_leaves_nothing_behind(
    queue: Queue, nodes: Nodes, leases: LeaseHandle, add: Add, lease_of: LeaseOf
) -> None:
    """What it held is free, what it had released keeps its backoff; retiring twice is fine."""
    held, released = await add(due_seconds=1), await add(due_seconds=2)
    node = await nodes.register("a", max_links=2)
    claims = await queue.claim(node, limit=2)
    await leases.release(
        claims[1].fence, backoff=Backoff(attempt=1, bound_seconds=1), delay_seconds=60
    )
    await nodes.retire(node)
    await nodes.retire(node)
    assert (await lease_of(held)).owner is None
    assert (await lease_of(released)).not_before is not None
    with pytest.raises(Fenced):
        await queue.claim(node, limit=1)
