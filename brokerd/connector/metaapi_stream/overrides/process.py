"""What the SDK keeps per process; the only override that is not of one instance."""

import signal

import engineio.asyncio_client
import engineio.client
import socketio.client
from metaapi_cloud_sdk.logger import LoggerManager

from brokerd.connector.metaapi_stream import sdklog
from brokerd.connector.metaapi_stream.overrides.replacing import replace


def prepare_process() -> None:
    """Set what the SDK keeps per process; to be called before the first `MetaApi()`.

    A10: its loggers wrap themselves at every use until they recurse to death. B12: its transports
    take SIGINT over, on the loop and below it, unless they believe they have done so already.
    """
    replace(LoggerManager, "get_logger", staticmethod(sdklog.DemotedLogger))
    sdklog.hold_tokens_back()
    engineio.asyncio_client.async_signal_handler_set = True
    for library in (engineio.client, socketio.client):
        if getattr(library, "original_signal_handler", None) is None:
            replace(library, "original_signal_handler", signal.getsignal(signal.SIGINT))
