"""Our stream adapter against the SDK with its defaults: CPU and memory, side by side, as ratios.

    python bench/stream_vs_sdk.py [ACCOUNTS ...]

Each client in a process of its own, one after the other, each against a fresh sandbox from the
same seed: on a shared one the next would replay what was traded for the last. The plain SDK has the
one listener a program needs to see deals, and its own history storage; ours is read as a link reads
it. Both ask for the whole history. All sockets are cut three times, so that everyone synchronizes
again: with hashes known by then, where the server looks at them. The plain SDK is measured a second
time on a server that does not, which is what a synchronization costs it by default.
"""

import sys

import stream_rig as rig

# to the SDK by hash; the first sync holds the canary's lesson, one for any number of links
AIMS = {"sync_cpu_ms": 0.4, "resync_cpu_ms": 0.7, "deal_cpu_ms": 0.3, "link_kb": 0.5}
SENT_AIMS = {"sync_cpu_ms": 0.12, "resync_cpu_ms": 0.03}  # to the SDK that is sent everything
RATE = 30.0  # deals per account and minute; the plain SDK needs a third of a core for 50 accounts


def measured(
    kind: str, accounts: int, *, looks_at_hashes: bool = True, has_canary: bool = True
) -> rig.Cost:
    """Measure a client on a server that looks at hashes, or does not."""
    with rig.sandbox(accounts) as server:
        if not looks_at_hashes:
            server.ignore_hashes()
        return rig.measure(kind, server, rate=RATE, has_canary=has_canary)


def compare(accounts: int) -> bool:
    """Measure all; print the table; say whether every aim is met."""
    sent = measured("plain", accounts, looks_at_hashes=False)
    plain = measured("plain", accounts)
    whole = measured("ours", accounts, has_canary=False)
    ours = measured("ours", accounts)
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
    for name, aim in SENT_AIMS.items():
        ratio = getattr(ours, name) / getattr(sent, name)
        print(f"  {f'{name}, ours to plain, sent':70}{ratio:8.3f}   {aim}")
        is_met = is_met and ratio <= aim
    return is_met


if __name__ == "__main__":
    results = [compare(int(each)) for each in sys.argv[1:] or ("50", "100")]
    print("\nevery aim met" if all(results) else "\nan aim was MISSED")
    sys.exit(0 if all(results) else 1)
