"""How brokerd logs: one JSON object a line, and never in the way of what it tells about."""

import logging
import logging.handlers
import os
import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import structlog
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer

MAX_WAITING_LINES = 10_000
FAREWELL_SECONDS = 1.0
"""What the last lines may take to be written; a log that is stuck keeps nobody from ending."""
_NOISY_LOGGERS = ("engineio", "socketio", "httpx", "httpcore", "uvicorn.access", "alembic")


def configure_logging(*, level: str, stream: TextIO = sys.stdout) -> None:
    """Send structlog and the standard library's loggers to `stream` as one JSON object a line.

    Libraries that log URLs (the stream's carries the token, sdk.md 2.3) are held at WARNING.
    """
    _configure(level, logging.StreamHandler(stream))


@contextmanager
def logging_aside(*, level: str, stream: TextIO = sys.stdout) -> Iterator[None]:
    """Log as `configure_logging` does, but let a thread write: a full pipe must not stop the loop.

    While the reader of `stream` stands still, lines beyond `MAX_WAITING_LINES` are dropped, and
    their number is told once there is room again.
    """
    handler = LineQueue(stream)
    _configure(level, handler)
    handler.start()
    try:
        yield
    finally:
        handler.stop()


class LineQueue(logging.handlers.QueueHandler):
    """Formats records where they are logged and hands them to a thread of its own."""

    def __init__(self, stream: TextIO, *, max_lines: int = MAX_WAITING_LINES) -> None:
        self._lines: queue.Queue[logging.LogRecord | None] = queue.Queue(max_lines)
        super().__init__(self._lines)
        self._file = stream.fileno()  # below the stream, whose lock a stuck write would hold
        self._dropped = 0
        # a daemon: a write that never ends must not keep the process alive
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, in bounded time."""
        try:
            self._lines.put(None, timeout=FAREWELL_SECONDS)
        except queue.Full:
            return
        self._thread.join(FAREWELL_SECONDS)

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped; never waits."""
        try:
            if self._dropped:
                self._lines.put_nowait(self.prepare(self._note()))
                self._dropped = 0
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def _note(self) -> logging.LogRecord:
        text = f"log lines dropped: {self._dropped}"
        return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)

    def _write(self) -> None:
        while (record := self._lines.get()) is not None:
            left = f"{record.getMessage()}\n".encode()
            with suppress(OSError):  # nobody reads any more: there is nobody to tell
                while left:
                    left = left[os.write(self._file, left) :]


def _configure(level: str, handler: logging.Handler) -> None:
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # without local variables: they may hold tokens and keys
        ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
