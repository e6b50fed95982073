"""The demo's two own programs, sandbox and daemon, as processes that say where they listen.

Both announce their address themselves, in their first lines of output: no port is chosen before
it is bound, so two demos at once never meet. They die with the demo at once, however it ends: a
daemon whose database dies with it has nothing to drain.
"""

import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from brokerd.demo.folder import EngineFolder
from brokerd.demo.server import Recipe, Server, log_tail
from brokerd.errors import EngineFailed


class _Greeting(msgspec.Struct):
    """A line of output that says where its program listens."""

    url: str
    token: str = ""
    event: str = ""


class Program(Server):
    """A brokerd command that runs until the demo ends; `event` marks the line with its address."""

    def __init__(
        self, name: str, *, arguments: Sequence[str], event: str, folder: EngineFolder
    ) -> None:
        self._name = name
        self._event = event
        self._greeting: _Greeting | None = None
        super().__init__(
            Recipe(
                name=name,
                argv=(sys.executable, "-m", "brokerd", *arguments),
                stop_signal=signal.SIGTERM,
                death_signal=signal.SIGKILL,
                is_ready=self._has_greeted,
                attempts=1,
            ),
            folder=folder,
        )

    @property
    def resident_mb(self) -> float:
        """Return how much memory it holds; raises `EngineFailed` if it ended by itself."""
        self.check()
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1_000_000

    @property
    def url(self) -> str:
        """Return where it listens, once started."""
        return self._said.url

    @property
    def token(self) -> str:
        """Return the token it announced beside its address."""
        return self._said.token

    def check(self) -> None:
        """Raise `EngineFailed`, with its last words, if it ended by itself."""
        if self.pid is None:
            raise EngineFailed(f"{self._name} ended: {log_tail(self._folder, self._name)}")

    @property
    def _said(self) -> _Greeting:
        if self._greeting is None:
            raise EngineFailed(f"{self._name} was not started")
        return self._greeting

    async def _has_greeted(self, _pid: int) -> bool:
        for line in (self._folder.path / f"{self._name}.log").read_bytes().splitlines():
            greeting = _read(line)
            if greeting is not None and greeting.event == self._event:
                self._greeting = greeting
                return True
        return False


def sandbox_program(*, seed: int, folder: EngineFolder) -> Program:
    """Prepare a sandbox without accounts, at rest."""
    options = ("--accounts", "0", "--seed", str(seed), "--deals-per-minute", "0")
    return Program("sandbox", arguments=("sandbox", *options), event="", folder=folder)


def daemon_program(config: Path, *, folder: EngineFolder) -> Program:
    """Prepare the daemon."""
    arguments = ("run", "--config", str(config))
    return Program("brokerd", arguments=arguments, event="app.ready", folder=folder)


def _read(line: bytes) -> _Greeting | None:
    try:
        return msgspec.json.decode(line, type=_Greeting)
    except msgspec.DecodeError:
        return None
