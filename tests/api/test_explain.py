"""A link's story: what is wanted, what is, what comes next, and how it got there."""

from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest

from brokerd.api.bodies import ExplainBody
from brokerd.app.explain import lines
from brokerd.clock import SystemClock
from brokerd.config.settings import MarketHours
from brokerd.domain import Phase, Proof, UserAction
from brokerd.health.calendar import calendar_of
from brokerd.store.memory import MemoryState, TransitionRow

LINK = "/v1/links/u-17-main"
PATH = f"{LINK}/explain"


def enter(api, phase, *, ago, reason="Told"):
    """Let the link have entered a phase some time ago."""
    api.state.transitions.append(
        TransitionRow(
            account_id=api.account("u-17-main"),
            at=api.state.clock.now() - ago,
            phase=phase,
            reason=reason,
        )
    )


def report(api, **changes):
    """Change what the owner reported."""
    account_id = api.account("u-17-main")
    api.state.links[account_id] = replace(api.state.links[account_id], **changes)


async def test_a_live_link_has_nothing_to_fear(api):
    """Wanted, live and proven: nothing blocks it."""
    await api.client.put(LINK, json=api.put_body())
    api.own("u-17-main")
    report(api, proof=Proof.PROVEN, observed_generation=1)
    story = (await api.client.get(PATH)).json()
    assert (story["linkId"], story["phase"]) == ("u-17-main", "live")
    assert story["wanted"] == "live (generation 1)"
    assert story["now"].startswith("live since ")
    assert (story["blockedBy"], story["userAction"], story["nextAt"]) == ([], "none", None)


async def test_a_refused_link_says_who_must_act_and_when_it_looks_again(api):
    """The reason and its message, the action, the next attempt, and what would change it."""
    await api.client.put(LINK, json=api.put_body())
    api.own("u-17-main", phase=Phase.BLOCKED)
    at = api.state.clock.now() + timedelta(minutes=15)
    report(
        api,
        reason="Billing",
        message="MetaApi wants money",
        user_action=UserAction.TOP_UP,
        next_attempt_at=at,
    )
    story = (await api.client.get(PATH)).json()
    assert "(Billing: MetaApi wants money)" in story["now"]
    assert story["userAction"] == "top_up"
    assert story["blockedBy"][0] == "whoever pays MetaApi must top up its balance"
    assert story["nextAt"].startswith(at.isoformat()[:19])
    assert story["wouldChange"]


async def test_a_waiting_link_says_what_is_before_it(api):
    """Its place in the queue is told in links."""
    for number in range(3):
        await api.client.put(f"/v1/links/before-{number}", json=api.put_body(login=str(number)))
    await api.client.put(LINK, json=api.put_body(priority="low"))
    story = (await api.client.get(PATH)).json()
    assert story["phase"] == "queued"
    assert story["blockedBy"][0] == "3 links are due before it"


async def test_a_closed_market_is_told_with_its_opening(new_api):
    """Out of hours nobody needs to look further."""
    never = {"Broker-*": MarketHours(time_zone="UTC", open=("Mon 00:00-Mon 00:01",))}
    api = new_api(MemoryState(clock=SystemClock()), calendar=calendar_of(never))
    await api.client.put(LINK, json=api.put_body())
    api.own("u-17-main", phase=Phase.SYNCING)
    report(api, reason="BrokerDisconnected", proof=Proof.PROVEN)
    story = (await api.client.get(PATH)).json()
    assert len(story["blockedBy"]) == 1
    assert story["blockedBy"][0].startswith("the broker's market is closed until 20")


async def test_the_last_twenty_changes_newest_first(api):
    """With their reasons; and uptime from all that is known."""
    await api.client.put(LINK, json=api.put_body())
    api.state.transitions.clear()
    for number in range(30):
        phase = Phase.LIVE if number % 2 == 0 else Phase.BACKOFF
        enter(api, phase, ago=timedelta(hours=30 - number), reason=f"R{number}")
    story = (await api.client.get(PATH)).json()
    assert [each["reason"] for each in story["transitions"]] == [f"R{n}" for n in range(29, 9, -1)]
    uptime = story["uptime"]
    assert set(uptime) == {"1h", "24h", "7d", "30d"}
    assert uptime["1h"]["ratio"] == 0.0
    assert uptime["24h"]["ratio"] == pytest.approx(0.5, abs=0.01)
    assert uptime["30d"]["expectedSeconds"] == pytest.approx(30 * 3600, abs=5)


async def test_of_nobody_there_is_no_story(api):
    """An unknown link is a 404, as everywhere."""
    assert (await api.client.get(PATH)).status_code == 404
    assert (await api.client.get(f"{PATH}?limit=3")).status_code == 422


async def test_the_command_prints_what_matters_first(api):
    """State, wish, next step and action in the first lines; the changes below."""
    await api.client.put(LINK, json=api.put_body())
    api.own("u-17-main", phase=Phase.BLOCKED)
    report(api, reason="Billing", user_action=UserAction.TOP_UP, observed_generation=1)
    story = msgspec.json.decode((await api.client.get(PATH)).content, type=ExplainBody)
    text = list(lines(story))
    assert text[0].startswith("u-17-main is blocked since ")
    assert text[1] == "wanted: live (generation 1)"
    assert text[2].startswith("next: it is looked at again")
    assert text[3] == "action: top_up"
    assert any(line.startswith("blocked: whoever pays") for line in text)
    assert "up, of the time it was wanted in session: 1h " in "\n".join(text)
