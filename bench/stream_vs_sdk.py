"""Our stream adapter against the SDK with its defaults: CPU and memory, side by side, as ratios.

    python bench/stream_vs_sdk.py [ACCOUNTS ...]

Each client in a process of its own, against one sandbox, one after the other. The plain SDK has
the one listener a program needs to see deals, and its own history storage; ours is read as a link
reads it. Both ask for the whole history. All sockets are cut once, so that everyone synchronizes
again: with hashes known by then, where the server looks at them. The plain SDK is measured a second
time on a server that does not, which is what a synchronization costs it by default.
"""

import sys

import stream_rig as rig

AIMS = {"sync_cpu_ms": 0.3, "resync_cpu_ms": 0.7, "deal_cpu_ms": 0.3, "link_kb": 0.5}
BY_HASH_AIM = 0.03
RATE = 30.0  # deals per account and minute; the plain SDK needs a third of a core for 50 accounts


def compare(accounts: int) -> bool:
    """Measure all; print the table; say whether every aim is met."""
    with rig.sandbox(accounts) as server:
        server.ignore_hashes(is_on=True)
        sent = rig.measure("plain", server, rate=RATE)
        server.ignore_hashes(is_on=False)
        plain = rig.measure("plain", server, rate=RATE)
        whole = rig.measure("ours", server, rate=RATE, has_canary=False)
        ours = rig.measure("ours", server, rate=RATE)
    kinds = "".join(f"{kind:>13}" for kind in ("plain, sent", "plain, hash", "ours, sent", "ours"))
    print(f"\n{accounts} accounts{'':11}{kinds}   ratio   aim")
    is_met = True
    for name in rig.Cost.__slots__:
        row = [getattr(cost, name) for cost in (sent, plain, whole, ours)]
        ratio = row[3] / row[1] if row[1] else float("nan")
        aim = AIMS.get(name)
        print(f"  {name:18}" + "".join(f"{value:13.2f}" for value in row), end="")
        print(f"{ratio:8.3f}   {aim or ''}")
        is_met = is_met and (aim is None or ratio <= aim)
    by_hash = ours.resync_cpu_ms / sent.resync_cpu_ms
    print(f"  ours by hash to the SDK's default{'':39}{by_hash:8.3f}   {BY_HASH_AIM}")
    return is_met and by_hash <= BY_HASH_AIM


if __name__ == "__main__":
    results = [compare(int(each)) for each in sys.argv[1:] or ("50", "100")]
    print("\nevery aim met" if all(results) else "\nan aim was MISSED")
    sys.exit(0 if all(results) else 1)
