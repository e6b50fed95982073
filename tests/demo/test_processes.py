"""The demo's own programs say where they are, and what they died of."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from brokerd.demo.configuration import Places, write_config
from brokerd.demo.folder import EngineFolder, EngineUser
from brokerd.demo.processes import daemon_program, sandbox_program
from brokerd.errors import EngineFailed


@pytest.fixture
def folder() -> Iterator[EngineFolder]:
    """Give a folder of our own."""
    ourselves = EngineUser(uid=os.geteuid(), gid=os.getegid(), is_switched=False)
    made = EngineFolder(user=ourselves)
    yield made
    for path in made.path.iterdir():
        path.unlink()
    made.path.rmdir()
    os.close(made.lock_fd)


async def test_the_sandbox_says_where_it_is_and_is_missed(folder: EngineFolder) -> None:
    """Its address and token are its own words; once dead it is reported."""
    sandbox = sandbox_program(seed=1, folder=folder)
    try:
        await sandbox.start()
        sandbox.check()
        async with httpx.AsyncClient(base_url=sandbox.url) as http:
            assert (await http.get("/control/accounts")).json() == []
        assert sandbox.token.count(".") == 2
        sandbox.kill()
        with pytest.raises(EngineFailed, match="sandbox ended"):
            sandbox.check()
    finally:
        await sandbox.stop()


async def test_a_daemon_that_cannot_start_says_why_at_once(folder: EngineFolder) -> None:
    """Its last words are in the failure; it is not tried again."""
    config = folder.write_private("brokerd.toml", "[pool]\nmax_linx = 3\n")
    daemon = daemon_program(config, folder=folder)
    with pytest.raises(EngineFailed, match="max_linx"):
        await daemon.start()
    assert (folder.path / "brokerd.log").read_text().count("max_linx") == 1


def test_secrets_are_private_and_not_in_the_configuration(folder: EngineFolder) -> None:
    """The configuration refers to files that only we can read."""
    places = Places(
        sandbox_url="http://127.0.0.1:1",
        sandbox_token="planted-token",
        postgres_url="postgresql://u:planted-password@/d",
        redis_url="unix:///planted",
    )
    written = write_config(folder, places, max_links=7)
    text = written.path.read_text()
    assert "max_links = 7" in text
    assert "planted" not in text
    assert written.api_key not in text
    for path in folder.path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert Path(folder.path / "api-key").read_text() == written.api_key
