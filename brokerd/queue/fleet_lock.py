"""The lock that claims, births and deaths of nodes exclude each other by."""

from functools import partial

from brokerd.store.locked import run_behind

FLEET_LOCK = 0x62726F6B65726401
"""The key is "brokerd" and 1; migrations hold 0, those who join the queue 2, spending 3."""

run_locked = partial(run_behind, FLEET_LOCK)
