"""The specification hash is the SDK's."""

import functools
import random
from collections.abc import Sequence

import msgspec
import pytest
from metaapi_cloud_sdk.metaapi.reference_tree import ReferenceTree
from metaapi_cloud_sdk.metaapi.terminal_hash_manager import TerminalHashManager

from brokerd.sandbox.hashes import specifications_hash

IGNORED = {"cloud-g1": ["description", "initialMargin"], "cloud-g2": ["pipSize", "description"]}


class _FieldLists:
    def get_hashing_ignored_field_lists(self, _region: str) -> dict[str, dict[str, list[str]]]:
        return {
            kind.removeprefix("cloud-"): {"specification": names, "position": [], "order": []}
            for kind, names in IGNORED.items()
        }


def sdk_hash(items: Sequence[dict[str, object]], account_type: str) -> str:
    """Hash the items with the SDK's own code."""
    manager = TerminalHashManager.__new__(TerminalHashManager)
    manager._client_api_client = _FieldLists()
    hashes = [
        manager.get_item_hash(item, "specifications", account_type, "london") for item in items
    ]
    xor = functools.partial(ReferenceTree._get_hex_xor, None)
    return functools.reduce(xor, hashes)


def specification(seed: int) -> dict[str, object]:
    """Make a specification with every kind of value."""
    rng = random.Random(seed)  # test values
    return {
        "symbol": f"SYM{seed}é",
        "tickSize": rng.choice([0.00001, 1e-7, 0.25, 1, 0.1 + 0.2]),
        "minVolume": 0.01,
        "maxVolume": rng.choice([500, 500.0, 123456789.123]),
        "digits": rng.choice([5, 3.0]),
        "contractSize": rng.uniform(0, 1e6),
        "swapLong": -rng.uniform(0, 9),
        "tradeAllowed": True,
        "path": None,
        "description": f"no matter {rng.random()}",
        "pipSize": rng.random(),
        "initialMargin": rng.random(),
        "fillingModes": ["SYMBOL_FILLING_FOK", 'quo"te\n'],
        "quoteSessions": {"MONDAY": [{"from": "00:00:00", "to": "24:00:00", "digits": 2.0}]},
    }


@pytest.mark.parametrize("account_type", ["cloud-g1", "cloud-g2"])
@pytest.mark.parametrize("seed", range(5))
def test_the_hash_is_the_one_the_sdk_computes(account_type: str, seed: int) -> None:
    """Both encoders agree on numbers, nesting, escapes and the ignored fields."""
    items = [specification(seed * 100 + n) for n in range(20)]
    ours = specifications_hash(
        [msgspec.json.encode(item) for item in items],
        account_type=account_type,
        ignored=frozenset(IGNORED[account_type]),
    )
    assert ours == sdk_hash(items, account_type)


def test_the_order_of_the_items_does_not_matter() -> None:
    """A client that collected the items in another order still matches."""
    items = [msgspec.json.encode(specification(n)) for n in range(5)]
    forward, backward = (
        specifications_hash(order, account_type="cloud-g2", ignored=frozenset())
        for order in (items, items[::-1])
    )
    assert forward == backward
    assert forward != specifications_hash(items[:4], account_type="cloud-g2", ignored=frozenset())


def test_nothing_has_no_hash() -> None:
    """A server without symbols never claims to match."""
    assert specifications_hash([], account_type="cloud-g2", ignored=frozenset()) is None
