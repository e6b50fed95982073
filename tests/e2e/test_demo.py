"""The whole of brokerd from nothing, as a newcomer runs it."""

import asyncio
import io
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import httpx
import pytest
from forked import ForkedProcess
from rich.console import Console

from brokerd.clock import SystemClock
from brokerd.demo.drill import StoreDrill
from brokerd.demo.fleet import Fleet, open_members
from brokerd.demo.interrupts import Interrupts
from brokerd.demo.options import DemoOptions
from brokerd.demo.stage import open_stage
from brokerd.demo.view import View
from brokerd.demo.watch import Watcher
from brokerd.sandbox.faults import FaultKind

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(150)]

NOTHING_WRONG = {
    "missing": 0,
    "invented": 0,
    "duplicated": 0,
    "different": 0,
    "balances_different": 0,
    "stragglers": [],
}


class Demo(ForkedProcess):
    """A demo that runs, and what it says."""

    def __init__(self, logs: Path, *arguments: str, folder: Path) -> None:
        self._output, self._errors = logs / "output", logs / "errors"
        self._errors.touch()
        super().__init__(
            *("demo", *arguments),
            output=self._output,
            errors=self._errors,
            environ={**os.environ, "TMPDIR": str(folder)},
        )

    @property
    def output(self) -> str:
        """Return its report."""
        return self._output.read_text()

    @property
    def errors(self) -> str:
        """Return everything else that it said."""
        return self._errors.read_text()

    async def until_said(self, word: str) -> None:
        """Wait until the word comes."""
        async with asyncio.timeout(60):
            while word not in self.errors:
                assert self.returncode is None, "the demo ended before"
                await asyncio.sleep(0.02)


@asynccontextmanager
async def started_demo(folder: Path, *arguments: str) -> AsyncIterator[Demo]:
    """Start a demo whose folders lie in `folder`; it is killed if the block leaves it running."""
    with tempfile.TemporaryDirectory() as logs:
        demo = await asyncio.to_thread(Demo, Path(logs), *arguments, folder=folder)
        try:
            yield demo
        finally:
            if demo.returncode is None:
                demo.kill()
                await demo.wait()


async def played_demo(folder: Path, *arguments: str) -> dict:
    """Run a demo to its end; return its report, which must be clean."""
    async with started_demo(folder, *arguments, "--json") as demo:
        assert await demo.wait() == 0, demo.errors + demo.output
        return json.loads(demo.output)


def survivors(folder: Path) -> list[str]:
    """Return the command lines of processes that have to do with the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            places = command + str((entry / "cwd").readlink())
            places += "".join(str(fd.readlink()) for fd in (entry / "fd").iterdir())
        except OSError:
            continue
        if str(folder) in places and entry.name != str(os.getpid()):
            found.append(command)
    return found


def left_in(folder: Path) -> list[Path]:
    """Return what lies in the folder."""
    return list(folder.iterdir())


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a temporary folder that the engines' user can enter, with a path short enough."""
    path = Path(tempfile.mkdtemp(prefix="bd-"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


async def until_nothing_is_left(folder: Path) -> None:
    """Wait until no process has to do with the folder."""
    try:
        async with asyncio.timeout(15):
            while survivors(folder):  # noqa: ASYNC110  # the kernel tells nobody
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(survivors(folder)) from None


async def test_two_demos_from_nothing_to_proven_ledgers(folder: Path) -> None:
    """At once, so that neither ports nor folders are shared: slots for all, and slots for few."""
    plenty, few = await asyncio.gather(
        played_demo(folder, "--accounts", "6", "--seconds", "8", "--seed", "4"),
        played_demo(folder, "--accounts", "6", "--seconds", "5", "--max-links", "2"),
    )
    for report in (plenty, few):
        assert report.items() >= NOTHING_WRONG.items()
        assert report["deals_truth"] == report["deals_ledger"] > 6 * 50
        assert report["balance_proven"] == 6
    assert (plenty["live"], plenty["queued"], plenty["max_live_seen"]) == (6, 0, 6)
    seen = plenty["first_seen_by"]
    assert seen["stream"] > 5
    assert seen["stream"] >= 0.95 * (seen["stream"] + seen["pull"])
    assert plenty["deal_to_commit_ms"]["p50"] < 1_000
    assert (few["queued"], few["queue_positions"]) == (4, [1, 2, 3, 4])
    assert 0 < few["max_live_seen"] <= 2
    assert left_in(folder) == []
    assert survivors(folder) == []


async def test_every_fault_is_survived(folder: Path) -> None:
    """Each kind strikes, and the ledger is the truth all the same."""
    report = await played_demo(folder, "--accounts", "6", "--seconds", "20", "--chaos")
    assert report.items() >= NOTHING_WRONG.items()
    assert report["balance_proven"] == 6
    assert all(report["faults"][kind] > 0 for kind in FaultKind)
    outages = report["store_outages"]
    assert outages["stopped_seconds"] >= outages["asked_seconds"] > 20 / 4
    assert (outages["restarts"], outages["sessions_lost"]) == (1, 0)
    assert outages["links_watched"] >= 3, "one may still mend from the storm"
    assert outages["not_ready_seen"] > 0


async def test_a_session_lost_with_postgres_is_counted() -> None:
    """Sockets are cut while PostgreSQL is away: the drill says that the links did not stay up."""
    options = DemoOptions(
        accounts=2, max_links=None, seed=1, seconds=None, is_chaos=True, is_json=True
    )
    clock = SystemClock()
    async with open_stage(options) as stage:
        members = await open_members(stage.control, count=2, random=Random(1))
        fleet = Fleet(stage.api, members=members)
        await fleet.register()
        view = View(Console(file=io.StringIO()))
        drill = StoreDrill(
            stage,
            fleet=fleet,
            watcher=Watcher(stage, fleet=fleet, view=view, clock=clock),
            clock=clock,
            interrupts=Interrupts(lambda: None),
        )
        async with asyncio.TaskGroup() as group:
            drilled = group.create_task(drill.run(links=2, stop_seconds=1.0))
            while stage.engines.postgres.pid is not None:  # noqa: ASYNC110  # it tells nobody
                await asyncio.sleep(0.05)
            async with httpx.AsyncClient(base_url=stage.sandbox.url) as hand:
                (await hand.post("/control/sockets/drop")).raise_for_status()
    assert drilled.result().links_watched == 2
    assert drilled.result().sessions_lost == 2


async def test_an_interrupt_ends_the_run_in_order(folder: Path) -> None:
    """Ctrl-C is how a demo without an end is ended: it settles and reports."""
    async with started_demo(folder, "--accounts", "3", "--json") as demo:
        await demo.until_said("live 3")
        demo.send_signal(signal.SIGINT)
        assert await demo.wait() == 0, demo.errors
        assert json.loads(demo.output)["balance_proven"] == 3
    assert left_in(folder) == []


@pytest.mark.parametrize("delay_seconds", [0.7, 1.5, 2.5])
async def test_an_interrupt_while_it_starts_ends_it_at_once(
    folder: Path, delay_seconds: float
) -> None:
    """Engines half up, schema half made: everything goes."""
    async with started_demo(folder, "--accounts", "3") as demo:
        await demo.until_said("starting")
        await asyncio.sleep(delay_seconds - 0.6)
        demo.send_signal(signal.SIGTERM)
        code = await demo.wait()
        assert code in {0, 130}, "0 when it was quicker than the signal"
        assert bool(demo.output) is (code == 0)
    assert left_in(folder) == []
    assert survivors(folder) == []


async def test_a_killed_demo_leaves_nothing_running(folder: Path) -> None:
    """SIGKILL while all is up: daemon, sandbox and engines die with it; the next run sweeps."""
    async with started_demo(folder, "--accounts", "3") as demo:
        await demo.until_said("live 3")
        assert len(survivors(folder)) > 3
        demo.kill()
        await demo.wait()
    await until_nothing_is_left(folder)
    await played_demo(folder, "--accounts", "1", "--seconds", "1")
    assert left_in(folder) == []
