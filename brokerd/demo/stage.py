"""Everything a demo runs on: engines, schema, sandbox and daemon, up in order and down in order."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from brokerd.config.settings import Secret
from brokerd.demo.configuration import Places, write_config
from brokerd.demo.control import SandboxControl
from brokerd.demo.engines import Engines, engines
from brokerd.demo.folder import EngineFolder, EngineUser
from brokerd.demo.options import DemoOptions
from brokerd.demo.processes import Program, daemon_program, sandbox_program
from brokerd.store.migrate import upgrade


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What runs; `api` is a client of the daemon with its key."""

    engines: Engines
    sandbox: Program
    daemon: Program
    control: SandboxControl
    api: httpx.AsyncClient

    def check(self) -> None:
        """Raise `EngineFailed` if a program ended by itself."""
        self.sandbox.check()
        self.daemon.check()


@asynccontextmanager
async def open_stage(options: DemoOptions) -> AsyncIterator[Stage]:
    """Run everything for as long as the block runs. Must be entered on the main thread."""
    ourselves = EngineUser(uid=os.geteuid(), gid=os.getegid(), is_switched=False)
    async with engines(is_durable=True) as running:
        await upgrade(Secret(running.postgres_url))
        # a folder of its own: as root the engines' one belongs to another user
        folder = EngineFolder(user=ourselves)
        try:
            async with _programs(options, running=running, folder=folder) as stage:
                yield stage
        finally:
            await folder.remove()


@asynccontextmanager
async def _programs(
    options: DemoOptions, *, running: Engines, folder: EngineFolder
) -> AsyncIterator[Stage]:
    sandbox = sandbox_program(seed=options.seed, folder=folder)
    try:
        await sandbox.start()
        places = Places(
            sandbox_url=sandbox.url,
            sandbox_token=sandbox.token,
            postgres_url=running.postgres_url,
            redis_url=running.redis_url,
        )
        config = write_config(folder, places, max_links=options.slots)
        daemon = daemon_program(config.path, folder=folder)
        try:
            await daemon.start()
            key = {"Authorization": f"Bearer {config.api_key}"}
            async with (
                httpx.AsyncClient(base_url=sandbox.url, trust_env=False) as hand,
                httpx.AsyncClient(base_url=daemon.url, headers=key, trust_env=False) as api,
            ):
                yield Stage(
                    engines=running,
                    sandbox=sandbox,
                    daemon=daemon,
                    control=SandboxControl(hand),
                    api=api,
                )
        finally:
            await daemon.stop()
    finally:
        await sandbox.stop()
