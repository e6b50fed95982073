"""`brokerd` whose SDK loses a task of its own at SIGUSR1: what reads one of its sockets."""

import asyncio
import signal

from brokerd.cli import main


def end_a_read_loop() -> None:
    """Cancel the first task of Engine.IO that reads a socket."""
    for task in asyncio.all_tasks():
        if "AsyncClient._read_loop" in repr(task.get_coro()):
            task.cancel()
            return


def sabotage(*_: object) -> None:
    """Have it done by the loop, between two of its steps."""
    asyncio.get_running_loop().call_soon_threadsafe(end_a_read_loop)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, sabotage)
    main()
