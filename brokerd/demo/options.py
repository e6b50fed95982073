"""What a demo is asked to be."""

from dataclasses import dataclass

STORE_AWAY_SECONDS = 20.0
_STORE_AWAY_PART = 3  # of a run that is shorter than a minute, one third


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """The command line's words; `max_links` None gives every account a slot.

    `seconds` count from when all links were registered; None runs until Ctrl-C.
    """

    accounts: int
    max_links: int | None
    seed: int
    seconds: float | None
    is_chaos: bool
    is_json: bool

    @property
    def slots(self) -> int:
        """Return how many links may run at once."""
        return self.accounts if self.max_links is None else self.max_links

    @property
    def store_away_seconds(self) -> float:
        """Return for how long chaos stops PostgreSQL."""
        if self.seconds is None:
            return STORE_AWAY_SECONDS
        return round(min(STORE_AWAY_SECONDS, self.seconds / _STORE_AWAY_PART), 1)
