"""One server process of the embedded engines: how it is spawned, awaited, stopped and replaced.

Nothing here survives its launcher: the kernel signals the child when the thread that spawned it
dies (hence only the main thread spawns), and a shell in between refuses to start a server whose
launcher died before that signal was armed.
"""

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from brokerd.demo.folder import EngineFolder
from brokerd.errors import EngineFailed

_POLL_SECONDS = 0.01
_START_SECONDS = 15.0
_RETRY_SECONDS = 0.25
_STOP_SECONDS = 15.0
_LOG_TAIL_LINES = 5
_EXEC_IF_LAUNCHER_LIVES = '[ "$PPID" = "$0" ] && exec "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to run one server.

    `stop_signal` asks for an orderly end, from us and from the kernel when we die, unless that one
    has a `death_signal` of its own. `is_ready` gets the child's pid, so that another server's
    answer is never taken for ours. One that ends before it is ready is tried again, `attempts`
    times in all: a killed predecessor's last processes may hold its lock for some seconds.
    """

    name: str
    argv: Sequence[str]
    stop_signal: signal.Signals
    is_ready: Callable[[int], Awaitable[bool]]
    death_signal: signal.Signals | None = None
    attempts: int = 20


class Server:
    """A server process in an engine folder; it can be stopped and started at will."""

    def __init__(self, recipe: Recipe, *, folder: EngineFolder) -> None:
        self._recipe = recipe
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return the running server's pid, None while it is stopped or dead."""
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    async def start(self) -> None:
        """Start the server and wait until it serves; raise `EngineFailed` if it does not."""
        if self.pid is not None:
            raise EngineFailed(f"{self._recipe.name} runs already")
        try:
            async with asyncio.timeout(_START_SECONDS):
                for _ in range(self._recipe.attempts):
                    if await self._attempt():
                        return
                    await asyncio.sleep(_RETRY_SECONDS)
        except TimeoutError:
            pass  # reported below, as an exit is
        except BaseException:
            self.kill()
            raise
        self.kill()
        tail = log_tail(self._folder, self._recipe.name)
        raise EngineFailed(f"{self._recipe.name} does not start: {tail}")

    async def stop(self) -> None:
        """End the server in order; kill it when that takes too long or we are cancelled."""
        process = self._process
        if process is None:
            return
        try:
            process.send_signal(self._recipe.stop_signal)
            async with asyncio.timeout(_STOP_SECONDS):
                await _ended(process)
        except TimeoutError:
            pass
        finally:
            self.kill()

    async def restart(self) -> None:
        """Stop in order, then start again on the same data."""
        await self.stop()
        await self.start()

    def kill(self) -> None:
        """End the server at once, as a crash would; does nothing when it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    async def _attempt(self) -> bool:
        """Spawn once; say whether it became ready before it ended."""
        recipe = self._recipe
        self._process = process = spawn(
            recipe.argv,
            name=recipe.name,
            death_signal=recipe.death_signal or recipe.stop_signal,
            folder=self._folder,
        )
        while process.poll() is None:
            if await recipe.is_ready(process.pid):
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False


async def run_once(argv: Sequence[str], *, name: str, folder: EngineFolder) -> None:
    """Run a tool of the engines to its end; raise `EngineFailed` if it fails."""
    process = spawn(argv, name=name, death_signal=signal.SIGINT, folder=folder)
    try:
        await _ended(process)
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise EngineFailed(f"{name} failed: {log_tail(folder, name)}")


def spawn(
    argv: Sequence[str], *, name: str, death_signal: signal.Signals, folder: EngineFolder
) -> subprocess.Popen[bytes]:
    """Start `argv` as the engines' user in a session of its own, bound to our life.

    The new session keeps the terminal's Ctrl-C away, so that whoever drains still finds its
    database. Output goes to `<name>.log` in the folder.
    """
    if threading.current_thread() is not threading.main_thread():
        raise EngineFailed("engines are started from the main thread: their life hangs on it")
    user = folder.user
    switch = [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
    bound = [
        "setpriv",
        f"--pdeathsig={death_signal.name.removeprefix('SIG')}",
        *(switch if user.is_switched else []),
        *("sh", "-c", _EXEC_IF_LAUNCHER_LIVES, str(os.getpid()), *argv),
    ]
    with (folder.path / f"{name}.log").open("ab") as output:
        try:
            return subprocess.Popen(  # noqa: S603  # our own binaries, no outside words
                bound,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": "/usr/bin:/bin", "HOME": str(folder.path), "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                pass_fds=(folder.lock_fd,),
            )
        except FileNotFoundError as error:
            raise EngineFailed("setpriv is missing; install util-linux") from error


def log_tail(folder: EngineFolder, name: str) -> str:
    """Return the last lines a server or tool wrote, for a failure's message."""
    lines = (folder.path / f"{name}.log").read_text(errors="replace").splitlines()
    return " | ".join(lines[-_LOG_TAIL_LINES:]) or "it wrote nothing"


async def _ended(process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:  # noqa: ASYNC110  # reaped by us alone, without a watcher
        await asyncio.sleep(_POLL_SECONDS)
