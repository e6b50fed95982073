"""Prints a link's story, as the control API tells it: the command `brokerd explain`."""

from collections.abc import Iterator

from brokerd.api.bodies import ExplainBody
from brokerd.api.client import open_client
from brokerd.config.settings import Settings
from brokerd.domain import LinkId, UserAction


async def explain(settings: Settings, *, link_id: str) -> str:
    """Return a link's story as text.

    Raises `ControlUnavailable`, `ControlRefused` and `ConfigInvalid`.
    """
    async with open_client(settings.api) as client:
        return "\n".join(lines(await client.explain(LinkId(link_id))))


def lines(story: ExplainBody) -> Iterator[str]:
    """Yield the lines of a story, what matters most at three in the morning first."""
    yield f"{story.link_id} is {story.now}"
    yield f"wanted: {story.wanted}"
    at = "" if story.next_at is None else f", at {story.next_at.isoformat(timespec='seconds')}"
    yield f"next: {story.next_step}{at}"
    if story.user_action is not UserAction.NONE:
        yield f"action: {story.user_action}"
    yield from (f"blocked: {block}" for block in story.blocked_by)
    yield from (f"would change it: {change}" for change in story.would_change)
    shown = ", ".join(
        f"{span} {'-' if each.ratio is None else format(each.ratio, '.2%')}"
        for span, each in story.uptime.items()
    )
    yield f"up, of the time it was wanted in session: {shown}"
    for each in story.transitions:
        yield f"  {each.at.isoformat(timespec='seconds')}  {each.phase:<13} {each.reason}"
