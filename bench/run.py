"""Every benchmark of this folder, one after the other, each in a process of its own.

make bench                          # all; about twenty minutes
make bench ARGS="ledger_write"      # the named ones
"""

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BENCHES = (
    "stream_vs_sdk",
    "stream_many",
    "daemon_links",
    "reconnect_storm",
    "ledger_write",
    "history_pull",
    "daemon_latency",
    "queries",
    "sandbox_cost",
)


def main(names: list[str]) -> int:
    """Run benches by name; return 1 if one of them missed what it demands."""
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
        return 2
    failed = []
    for name in names or BENCHES:
        print(f"\n== {name}", flush=True)
        began = time.monotonic()
        if subprocess.run([sys.executable, HERE / f"{name}.py"], check=False).returncode:
            failed.append(name)
        print(f"   ({time.monotonic() - began:.0f} s)", flush=True)
    if failed:
        print(f"\nnot met: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
