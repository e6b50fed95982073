"""`brokerd` in a process of its own that starts at once: a fork of one that has imported it.

Importing takes a daemon and a command longer than anything else they do in most tests, and those
start dozens.
"""

import asyncio
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from brokerd.cli import main

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    # the latter are imported when something is first asked of typer, Litestar and httpx
    [
        *("brokerd.cli", "brokerd.app.run", "brokerd.demo.run"),
        *("pydantic", "litestar.plugins.pydantic", "httpcore"),
    ]
)
_PATIENCE_SECONDS = 50


def brokerd(*arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, to be used like `subprocess.run` with its output captured.

    It is killed when it takes too long; its code is then that of the signal.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = _forks.Process(target=_run, args=(arguments, output, errors, dict(environ)))
        process.start()
        process.join(_PATIENCE_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
        return subprocess.CompletedProcess(
            arguments, process.exitcode, output.read_text(), errors.read_text()
        )


class ForkedProcess:
    """One run of the command line, to be used like `asyncio.subprocess.Process`."""

    def __init__(
        self, *arguments: str, output: Path, errors: Path, environ: Mapping[str, str]
    ) -> None:
        self._process = _forks.Process(target=_run, args=(arguments, output, errors, dict(environ)))
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


def _run(arguments: Sequence[str], output: Path, errors: Path, environ: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environ)
    for number, path in ((1, output), (2, errors)):
        with path.open("ab") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["brokerd", *arguments]
    main()
