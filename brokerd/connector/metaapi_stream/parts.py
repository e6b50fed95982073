"""What the stream is given by the node, and what its clients share."""

from dataclasses import dataclass
from random import Random

import httpx

from brokerd.clock import Clock
from brokerd.config.settings import MetaApiSettings
from brokerd.connector.governor.ports import SocketGate
from brokerd.telemetry import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPorts:
    """What the stream needs from the rest of the node."""

    http: httpx.AsyncClient
    sockets: SocketGate
    clock: Clock
    random: Random
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientParts:
    """What every client of a node shares."""

    settings: MetaApiSettings
    ports: StreamPorts
