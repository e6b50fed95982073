"""The daemon's configuration for a demo: production's shape, with a demo's patience."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from brokerd.demo.folder import EngineFolder

_CONFIG = """\
node_name = "demo"

[metaapi]
provisioning_url = "{sandbox_url}"
client_url = "{sandbox_url}"
stream_url = "{sandbox_url}"
request_timeout_seconds = 10
requests_per_second = 500
socket_opens_per_second = 20
admissions_per_second = 50
connect_timeout_seconds = 5
tokens.main = {{ file = "metaapi-token" }}

[database]
url = {{ file = "database-url" }}

[redis]
url = {{ file = "redis-url" }}

[api]
port = 0
key = {{ file = "api-key" }}

# pulls and proofs every few seconds are more than MetaApi sells; the sandbox counts none
[governor]
user_credits_per_second = 0
user_credits_per_minute = 0
user_credits_per_hour = 0
user_credits_per_six_hours = 0
server_credits_per_second = 0
account_credits_per_ten_seconds = 0

[pool]
max_links = {max_links}
poll_seconds = 0.5
drain_seconds = 8

[link]
connect_timeout_seconds = 15
sync_stall_seconds = 20
suspect_seconds = 6
silence_seconds = 10
probe_seconds = 2
rolling_interval_seconds = 10
removal_recheck_seconds = 2
proof_interval_seconds = 3
proof_retry_seconds = 1
backoff_ceiling_seconds = 5
stable_seconds = 20
blocked_recheck_seconds = 5
close_timeout_seconds = 5
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the daemon finds the rest of the demo; the URLs hold passwords."""

    sandbox_url: str
    sandbox_token: str
    postgres_url: str
    redis_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenConfig:
    """A configuration in a file, and the key that it gives the control API."""

    path: Path
    api_key: str


def write_config(folder: EngineFolder, places: Places, *, max_links: int) -> WrittenConfig:
    """Write the configuration and, in private files beside it, its secrets."""
    api_key = secrets.token_hex(32)
    folder.write_private("metaapi-token", places.sandbox_token)
    folder.write_private("database-url", places.postgres_url)
    folder.write_private("redis-url", places.redis_url)
    folder.write_private("api-key", api_key)
    text = _CONFIG.format(sandbox_url=places.sandbox_url, max_links=max_links)
    return WrittenConfig(path=folder.write_private("brokerd.toml", text), api_key=api_key)
