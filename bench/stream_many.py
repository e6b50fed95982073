"""Many links of ours in one process: how long until all are synchronized, and what they cost.

    python bench/stream_many.py [ACCOUNTS]

The plain SDK live-locks near 200 (sdk.md A14). The rate of admission bounds the time to all;
ADMISSIONS_PER_SECOND in the environment changes it.
"""

import sys

import stream_rig as rig

RATE = 6.0

if __name__ == "__main__":
    with rig.sandbox(int(sys.argv[1]) if len(sys.argv) > 1 else 400) as server:
        cost = rig.measure("ours", server, rate=RATE)
    for name in rig.Cost.__slots__:
        print(f"  {name:28}{getattr(cost, name):12.2f}")
    sys.exit(0 if cost.synchronized == cost.accounts else 1)
