"""Our stream adapter against the SDK with its defaults: CPU and memory, side by side, as ratios.

    python bench/stream_vs_sdk.py [ACCOUNTS ...]

Both clients in processes of their own, against one sandbox, one after the other. The plain SDK has
the one listener a program needs to see deals, and its own history storage; ours is read as a link
reads it. Both ask for the whole history.
"""

import sys

import stream_rig as rig

AIMS = {"sync_cpu_ms": 0.12, "deal_cpu_ms": 0.3, "link_kb": 0.5}
RATE = 30.0  # deals per account and minute; the plain SDK needs a third of a core for 50 accounts


def compare(accounts: int) -> bool:
    """Measure both; print the table; say whether every aim is met."""
    with rig.sandbox(accounts) as server:
        costs = {kind: rig.measure(kind, server, rate=RATE) for kind in ("plain", "ours")}
    print(f"\n{accounts} accounts{'':21}plain SDK        ours     ratio   aim")
    is_met = True
    for name in rig.Cost.__slots__:
        theirs, ours = getattr(costs["plain"], name), getattr(costs["ours"], name)
        ratio = ours / theirs if theirs else float("nan")
        aim = AIMS.get(name)
        print(f"  {name:28}{theirs:12.2f}{ours:12.2f}{ratio:10.3f}   {aim or ''}")
        is_met = is_met and (aim is None or ratio <= aim)
    return is_met


if __name__ == "__main__":
    results = [compare(int(each)) for each in sys.argv[1:] or ("50", "100")]
    print("\nevery aim met" if all(results) else "\nan aim was MISSED")
    sys.exit(0 if all(results) else 1)
