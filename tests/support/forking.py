"""A process that forks for each order, and whose forks end or stop themselves at a chosen step.

Reads orders `SIGNAL STEP NODE` from stdin and forks for each: the fork does its work, and sends
itself the signal when the loop is about to run its STEP-th callback, which is wherever a
coroutine of ours is resumed. What it says, the test reads.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable

from brokerd.errors import Fenced

EXIT_FENCED = 3

Live = Callable[[signal.Signals, int, str], Awaitable[None]]


def say(*words: object) -> None:
    """Tell the test, past every buffer."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def arm(number: signal.Signals, step: int) -> None:
    """Send ourselves the signal before the step-th callback from now."""
    run, count = asyncio.Handle._run, 0

    def counted(handle: asyncio.Handle) -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), number)
        run(handle)

    asyncio.Handle._run = counted


def obey(live: Live) -> None:
    """Fork for each order, and tell when the fork stopped and how it ended."""
    for line in sys.stdin:
        name, at, of = line.split()
        _fork(live, signal.Signals[name], int(at), of)


def _fork(live: Live, number: signal.Signals, step: int, node: str) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(live(number, step, node))
        except* Fenced:
            os._exit(EXIT_FENCED)
        os._exit(0)
    status = os.waitpid(pid, os.WUNTRACED)[1]
    if os.WIFSTOPPED(status):
        say("stopped", pid)
        status = os.waitpid(pid, 0)[1]
    say("ended", os.waitstatus_to_exitcode(status))
