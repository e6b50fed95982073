"""What the service is like as a whole: its clock, its regions, and who else uses its accounts."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from brokerd.clock import Clock

_REGION_IN_HOST = re.compile(r"\.([a-z]+(?:-[a-z]+)*)-[ab](?:\.|:|$)")


@dataclass(slots=True, kw_only=True)
class Conditions:
    """The control may change all of it.

    `clock_offset_seconds` is how far the service's clock is ahead of ours: it shows in the header
    Date and in every hint. `down_regions` answer no client. `subscribers` are other programs that
    listen to accounts: application names by account id.
    """

    clock_offset_seconds: float = 0.0
    down_regions: tuple[str, ...] = ()
    subscribers: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def offset(self) -> timedelta:
        """Return how far the service's clock is ahead."""
        return timedelta(seconds=self.clock_offset_seconds)

    def now(self, clock: Clock) -> datetime:
        """Return the time that the service believes it is."""
        return clock.now() + self.offset


def region_of_host(headers: Mapping[str, str]) -> str | None:
    """Return the region in the host name that a client of the stream asked for.

    With the SDK's own URLs that name is the user part of a sandbox's address (sdk.md 4), which
    comes as an authorization; with `set_url` there is none to be seen.
    """
    found = _REGION_IN_HOST.search(f".{headers.get('Host', '')}")
    kind, _, credentials = headers.get("Authorization", "").partition(" ")
    if found is None and kind == "Basic":
        try:
            name = base64.b64decode(credentials).decode(errors="replace")
        except binascii.Error:
            return None
        found = _REGION_IN_HOST.search(name)
    return None if found is None else found.group(1)
