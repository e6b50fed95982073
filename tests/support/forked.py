"""`brokerd` in a process of its own that starts at once: a fork of one that has imported it.

Importing takes a daemon longer than anything else it does in most tests, and they start dozens.
"""

import asyncio
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from brokerd.cli import main

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["brokerd.app.run"])


class ForkedProcess:
    """One run of the command line; to be used like `asyncio.subprocess.Process`."""

    def __init__(self, *arguments: str, log: Path, environ: Mapping[str, str]) -> None:
        self._process = _forks.Process(target=_run, args=(arguments, log, dict(environ)))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return how it ended; the negative number of a signal, None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without a word."""
        self._process.kill()

    async def wait(self) -> int:
        """Wait until it ended; return how."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        return self._process.exitcode


def _run(arguments: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = ["brokerd", *arguments]
    main()
