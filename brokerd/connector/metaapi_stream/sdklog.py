"""What the SDK has to say, in our log: at DEBUG, and without tokens."""

import logging
import re

_TOKEN = re.compile(r"(auth-token['\"]?\s*[=:]\s*['\"]?)[^&\s'\",)]+")
_TRANSPORT_LOGGERS = ("engineio.client", "socketio.client")


def scrub(text: str) -> str:
    """Blot tokens out; the stream's URLs carry them (sdk.md 2.3)."""
    return _TOKEN.sub(r"\1…", text)


class TokenFilter(logging.Filter):
    """Scrubs records of libraries that quote URLs, traceback included."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, scrubbed."""
        message = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            trace = logging.Formatter().formatException(record.exc_info)
            if "auth-token" in trace:
                message = f"{message}\n{trace}"
                record.exc_info = record.exc_text = None
        if "auth-token" in message:
            record.msg, record.args = scrub(message), None
        return True


class DemotingFilter(TokenFilter):
    """Makes DEBUG of what is called an error and is one of the ways a socket ends."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the record pass where DEBUG does, scrubbed."""
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger().isEnabledFor(logging.DEBUG) and super().filter(record)


def hold_tokens_back() -> None:
    """Keep the loggers below the SDK from showing a token, whatever their level."""
    _filter("asyncio", TokenFilter)
    for name in _TRANSPORT_LOGGERS:
        _filter(name, DemotingFilter)
        logging.getLogger(name).setLevel(logging.WARNING)  # INFO shows every packet


def _filter(name: str, kind: type[TokenFilter]) -> None:
    logger = logging.getLogger(name)
    if not any(isinstance(each, kind) for each in logger.filters):
        logger.addFilter(kind())


class DemotedLogger:
    """A logger as the SDK uses one.

    The SDK calls ERROR what a reconnect cures, and passes more arguments than its texts take. What
    matters reaches the operator as an event, a gap or a metric; the rest is for debugging.
    """

    def __init__(self, category: str) -> None:
        self._logger = logging.getLogger(f"metaapi.{category}")

    def debug(self, *_: object) -> None:
        """Drop it: the SDK's debug lines are its packets."""

    def info(self, message: object, *details: object) -> None:
        """Write it at DEBUG."""
        if self._logger.isEnabledFor(logging.DEBUG):
            text = " ".join(str(part) for part in (message, *details))
            self._logger.debug("%s", scrub(text))

    warn = warning = error = exception = info
